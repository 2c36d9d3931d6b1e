"""What a run left behind, made readable: metrics files, plots, reports."""

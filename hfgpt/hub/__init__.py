"""What goes to the Hub: models with their records and cards, Spaces, collections, and pushes while a stage trains."""

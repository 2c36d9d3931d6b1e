"""Whether the Hub answers, and whom it takes us for."""

from collections.abc import Iterator

import httpx2
from huggingface_hub import constants, get_token

from hfgpt.doctor.findings import Finding

SECONDS = 15
LOG_IN = "hf auth login, or set HF_TOKEN"


def check_hub() -> Iterator[Finding]:
    """One request, `whoami`, with the token if there is one. That the Hub cannot be reached is a warning: what is on
    this machine works without it. That it refuses the token is a failure, since it then refuses every download."""
    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        remedy = "unset HF_HUB_OFFLINE to download and to push"
        yield Finding("Hub", "warning", "HF_HUB_OFFLINE is set: only what was downloaded before can be used", remedy)
        return
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        response = httpx2.get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=SECONDS, follow_redirects=True)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error).strip() or type(error).__name__
        remedy = "check the network, its proxy (HTTPS_PROXY) and HF_ENDPOINT; without the Hub use local files"
        yield Finding("Hub", "warning", f"{endpoint} cannot be reached ({reason})", remedy)
        return
    if response.status_code == 200:
        yield Finding("Hub", "ok", f"{endpoint}, logged in as {_name(response)}")
    elif response.status_code in (401, 403) and token:
        yield Finding("Hub", "failed", f"{endpoint} refuses the token: it is wrong or expired", LOG_IN)
    elif response.status_code in (401, 403):
        found = f"{endpoint}, not logged in: enough for public models and data (for others: {LOG_IN})"
        yield Finding("Hub", "ok", found)
    else:
        yield Finding("Hub", "warning", f"{endpoint} answers {response.status_code}", "try again later")


def _name(response: httpx2.Response) -> str:
    try:
        return str(response.json()["name"])
    except (ValueError, LookupError, TypeError):
        return "somebody without a name"

"""Which documents are held out for validation: a pure function of a document's content, so that copies of it stay
together whatever their order, shard or machine."""

from hashlib import blake2b

from hfgpt.errors import UserError

HASH_BITS = 64


def is_validation(text: str, fraction: float) -> bool:
    """Whether this document belongs to the `fraction` (0 to 1) of documents that are held out.

    The 64-bit BLAKE2b hash of the UTF-8 text is below fraction x 2^64; a larger fraction holds out the same
    documents and more. Raises UserError for a fraction outside 0 to 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise UserError(f"validation_fraction is {fraction}; it must lie between 0 and 1.")
    digest = blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=HASH_BITS // 8).digest()
    # Both sides are exact: a float times a power of two loses nothing, and Python compares int with float exactly.
    return int.from_bytes(digest, "big") < fraction * 2.0**HASH_BITS

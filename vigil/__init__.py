"""placeholder"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vigil.api import HyperliquidAPI

__all__ = ["HyperliquidAPI"]


def __getattr__(name: str) -> Any:
    if name == "HyperliquidAPI":  # on demand: the embedded Postgres' guardian needs none of aiohttp
        from vigil.api import HyperliquidAPI

        return HyperliquidAPI
    raise AttributeError(f"module 'vigil' has no attribute {name!r}")

"""What can be traded in the simulated exchange, and how its numbers are printed.

All arithmetic of the simulator is done in whole *steps* (the smallest unit of a price or a
size); text is made at the very end. Must not know users, time or HTTP.

For perps `px_decimals + sz_decimals == 6` (the exchange's own rule), so a price step times a
size step is a millionth of a dollar; for spot the sum is 8. Listing dates are *not* modelled:
HIP-3 coins trade in 2023 too, so that every window of a test meets every kind of coin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Below this a float prints with an exponent ("1e-05"), which the exchange never sends.
_EXPONENT_BELOW = 1e-4
# Above this the 10th decimal of a double is noise; the exchange prints that noise.
_NOISE_ABOVE = 2e5


@dataclass(frozen=True, slots=True)
class Coin:
    """One market: name on the wire, decimals, a typical price and order size in steps."""

    name: str
    sz_decimals: int
    px_decimals: int
    typical_px: int
    typical_sz: int
    fee_token: str = "USDC"  # noqa: S105 - the money kind of token
    base_token: str = ""  # spot only: what a buyer receives and pays the fee in
    px_unit: int = field(init=False)
    sz_unit: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "px_unit", 10**self.px_decimals)
        object.__setattr__(self, "sz_unit", 10**self.sz_decimals)

    @property
    def spot(self) -> bool:
        return bool(self.base_token)


COINS: tuple[Coin, ...] = (
    Coin("BTC", 5, 1, 612_340, 900),
    Coin("ETH", 4, 2, 301_275, 4_000),
    Coin("SOL", 2, 4, 1_517_300, 900),
    Coin("HYPE", 2, 4, 254_310, 5_000),
    Coin("kPEPE", 0, 6, 11_482, 400_000),
    Coin("ARB", 1, 5, 55_231, 9_000_000),  # large and fractional: where printed noise comes from
    Coin("DOGE", 0, 6, 164_210, 20_000),
    Coin("xyz:NVDA", 3, 3, 178_420, 2_000),
    Coin("xyz:SKHX", 3, 3, 1_344_100, 60, "USDH"),
    Coin("@107", 2, 6, 25_431_000, 4_000, "USDC", "HYPE"),
    Coin("@142", 5, 3, 104_730_168, 700, "USDC", "UBTC"),
    Coin("PURR/USDC", 0, 8, 15_230_000, 3_000, "USDC", "PURR"),
)
DUST_COINS: tuple[str, ...] = ("@142", "@107", "PURR/USDC")


def number_text(steps: int, unit: int) -> str:
    """Print `steps / unit` as the exchange does: at least one decimal, never an exponent.

    Exact while `steps` has at most 15 digits, because the shortest text of the nearest double
    is then the decimal number itself.
    """
    value = steps / unit
    if value >= _EXPONENT_BELOW or value <= -_EXPONENT_BELOW or not steps:
        return repr(value)
    return f"{value:.10f}".rstrip("0")


def position_text(steps: int, unit: int) -> str:
    """Print a `startPosition`: a double cut at 10 decimals, noise and all ("15105850.5999999996")."""
    value = steps / unit
    if -_NOISE_ABOVE < value < _NOISE_ABOVE:
        return number_text(steps, unit)
    text = f"{value:.10f}".rstrip("0")
    return text + "0" if text.endswith(".") else text

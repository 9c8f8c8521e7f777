"""Pictures per charge, from measured millijoules and the battery's rated capacity.

Watt-hours are a maker's figure where one is published. Phones are mostly sold by milliampere-hours alone: those are
taken at 3.87 V, the nominal voltage of today's cells (3.85 to 3.89 V), and their band is 2 % wide. A worn battery holds
less: the band doesn't know its age.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from cmexport.bench.schema import EnergyRecord
from cmexport.errors import UsageError

MJ_PER_WH = 3.6e6
NOMINAL_V = 3.87
_PUBLISHED, _CONVERTED = 0.005, 0.02
_APPLE = "Apple, technical specifications"
_GOOGLE = "Google: minimum, reported in July 2023,"
_SAMSUNG = "Dekra's certificate of the cell: rated, reported in August 2023,"
_REGULATOR = "China's compulsory certification, as reported in September 2023"


@dataclass(frozen=True)
class Battery:
    """A device's battery, by its rated capacity.

    Attributes:
        name: of the product.
        models: what devices call themselves, as a pattern for the whole of it, in any case.
        wh: watt-hours.
        tolerance: relative, to both sides.
        source: who says so.
    """

    name: str
    models: str
    wh: float
    tolerance: float
    source: str


def _of_mah(name: str, models: str, mah: float, source: str) -> Battery:
    said = f"{source} {mah:g} mAh, at {NOMINAL_V} V"
    return Battery(name, models, mah * NOMINAL_V / 1e3, _CONVERTED, said)


def _of_wh(name: str, models: str, wh: float, source: str = _APPLE) -> Battery:
    return Battery(name, models, wh, _PUBLISHED, f"{source}, {wh:g} Wh")


BATTERIES = (
    _of_mah("Pixel 7", "Pixel 7", 4270, _GOOGLE),
    _of_mah("Pixel 8", "Pixel 8", 4485, _GOOGLE),
    _of_mah("Pixel 8 Pro", "Pixel 8 Pro", 4950, _GOOGLE),
    _of_mah("Galaxy S24+", r"SM-S926.*|Galaxy S24\+", 4755, _SAMSUNG),
    _of_mah("Galaxy S24 Ultra", "SM-S928.*|Galaxy S24 Ultra", 4855, _SAMSUNG),
    _of_wh("iPhone 15", "iPhone15,4|iPhone 15", 12.981, _REGULATOR),
    _of_wh("iPhone 15 Plus", "iPhone15,5|iPhone 15 Plus", 16.950, _REGULATOR),
    _of_wh("iPhone 15 Pro", "iPhone16,1|iPhone 15 Pro", 12.70, _REGULATOR),
    _of_wh("iPhone 15 Pro Max", "iPhone16,2|iPhone 15 Pro Max", 17.109, _REGULATOR),
    _of_wh("iPad Pro 11-inch (M4)", "iPad16,[34]", 31.29),
    _of_wh("iPad Pro 13-inch (M4)", "iPad16,[56]", 38.99),
    _of_wh("MacBook Air 13-inch (M2)", "Mac14,2", 52.6),
    _of_wh("MacBook Air 13-inch (M3)", "Mac15,12", 52.6),
    _of_wh("MacBook Pro 14-inch (M4)", "Mac16,1", 72.4),
)


@dataclass(frozen=True)
class Charge:
    """How far a battery goes.

    Attributes:
        battery: the battery.
        per_charge: pictures from full to empty, by the net energy.
        low: lower end of the band; None without an interval of the energy.
        high: upper end, infinite where the energy's interval reaches zero; None likewise.
    """

    battery: Battery
    per_charge: float
    low: float | None
    high: float | None

    @property
    def per_percent(self) -> float:
        """Pictures for 1 % of the charge."""
        return self.per_charge / 100.0


def battery_of(model: str | None) -> Battery | None:
    """Return the battery of a device, by what the device calls itself."""
    if model is None:
        return None
    return next((b for b in BATTERIES if re.fullmatch(b.models, model.strip(), re.IGNORECASE)), None)


def battery_asked(text: str) -> Battery:
    """Return what `--battery` means: a model of the table, or watt-hours.

    Raises:
        UsageError: neither.
    """
    known = battery_of(text)
    known = known or next((b for b in BATTERIES if b.name.lower() == text.strip().lower()), None)
    if known is not None:
        return known
    try:
        wh = float(text.lower().removesuffix("wh"))
    except ValueError:
        names = ", ".join(b.name for b in BATTERIES)
        raise UsageError(f"--battery {text}: give the rated capacity in Wh, or one of {names}") from None
    if not (math.isfinite(wh) and 0.01 <= wh <= 1e5):
        raise UsageError(f"--battery {text}: a rated capacity lies between 0.01 and 100 000 Wh")
    return Battery("given capacity", "", wh, 0.0, f"--battery {wh:g} Wh, taken as exact")


def charge(battery: Battery, energy: EnergyRecord) -> Charge | None:
    """Pictures per charge; None without measured energy."""
    net = energy.mj_per_image_net
    if net is None or net <= 0:
        return None
    low = high = None
    if energy.ci95_mj_per_image is not None:
        least, most = energy.ci95_mj_per_image
        low = battery.wh * (1.0 - battery.tolerance) * MJ_PER_WH / most if most > 0 else 0.0
        high = battery.wh * (1.0 + battery.tolerance) * MJ_PER_WH / least if least > 0 else math.inf
    return Charge(battery, battery.wh * MJ_PER_WH / net, low, high)

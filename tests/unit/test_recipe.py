"""Recipes against their published formulas, written out here in float64, and alpha as validity."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from basemake.build.config import check, read_recipe
from basemake.pixels.dn import DnReading
from basemake.pixels.recipe import CompiledRecipe, apply_steps

Floats = NDArray[np.float64]
NODATA = -32768
SENTINEL = DnReading(0.0001, 0.0, NODATA)
LANDSAT = DnReading(2.75e-05, -0.2, 0)
INT16 = np.dtype("int16")
SHIPPED = ["l2a-optimized", "simple-gain", "natural", "quicklook"]
# Rounding to a level is half of one; the tables of 65 536 steps and float32 may add a little, so
# that a value on the edge of two levels takes the other one. Measured: 0.53.
LEVELS = 0.6


def clip01(x: Floats) -> Floats:
    return np.minimum(np.maximum(x, 0.0), 1.0)


def l2a_optimized(rho: Floats) -> Floats:
    max_r, mid_r, sat, gamma, g_off = 3.0, 0.13, 1.2, 1.8, 0.01
    g_off_pow = g_off**gamma
    g_off_range = (1 + g_off) ** gamma - g_off_pow
    x = clip01(rho / max_r)
    adj = x * (x * (mid_r / max_r + 1 - 1) - 1) / (x * (2 * mid_r / max_r - 1) - mid_r / max_r)
    s = ((adj + g_off) ** gamma - g_off_pow) / g_off_range
    m = (s[0] + s[1] + s[2]) / 3 * (1 - sat)
    c = clip01(m + s * sat)
    return np.where(c <= 0.0031308, 12.92 * c, 1.055 * c**0.41666666666 - 0.055)


def simple_gain(rho: Floats) -> Floats:
    return clip01(2.5 * rho)


def quicklook(rho: Floats) -> Floats:
    return clip01(rho * 10_000 / 2500) ** 0.55


def natural(rho: Floats) -> Floats:
    v = clip01(1.6 * rho)
    v = np.stack([v[0] ** (1 / 2.0), v[1] ** (1 / 2.0), v[2] ** (1 / 1.9)])
    contrast, bias = 5, 0.42
    at_0 = 1 / (1 + np.exp(contrast * bias))
    at_1 = 1 / (1 + np.exp(contrast * (bias - 1)))
    return lch_saturated((1 / (1 + np.exp(contrast * (bias - v))) - at_0) / (at_1 - at_0), 1.15)


def lch_saturated(rgb: Floats, factor: float) -> Floats:
    """rio-color's way by lightness, chroma and hue, with the curve of sRGB (IEC 61966-2-1)."""
    r, g, b = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047
    y = 0.2126729 * r + 0.7151522 * g + 0.0721750 * b
    z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883
    delta = 6 / 29
    fx, fy, fz = (
        np.where(t > delta**3, np.cbrt(t), t / (3 * delta**2) + 4 / 29) for t in (x, y, z)
    )
    lightness, a_star, b_star = 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
    chroma, hue = np.hypot(a_star, b_star) * factor, np.arctan2(b_star, a_star)
    fy = (lightness + 16) / 116
    fx, fz = fy + chroma * np.cos(hue) / 500, fy - chroma * np.sin(hue) / 200
    x, y, z = (np.where(f > delta, f**3, 3 * delta**2 * (f - 4 / 29)) for f in (fx, fy, fz))
    x, z = x * 0.95047, z * 1.08883
    linear = clip01(
        np.stack(
            [
                3.2404542 * x - 1.5371385 * y - 0.4985314 * z,
                -0.9692660 * x + 1.8760108 * y + 0.0415560 * z,
                0.0556434 * x - 0.2040259 * y + 1.0572252 * z,
            ]
        )
    )
    return np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


FORMULAS: dict[str, Callable[[Floats], Floats]] = {
    "l2a-optimized": l2a_optimized,
    "simple-gain": simple_gain,
    "natural": natural,
    "quicklook": quicklook,
}


def compiled(name: str, reading: DnReading = SENTINEL, dtype: np.dtype = INT16) -> CompiledRecipe:
    return CompiledRecipe(read_recipe(name)["steps"], reading, dtype)


def colours(recipe: CompiledRecipe, dn: NDArray) -> NDArray[np.uint8]:
    """Return (3, n) of (3, n) DN."""
    return recipe(dn[:, np.newaxis])[0, :, :3].T


def assert_close(got: NDArray, exact: Floats, valid: NDArray | bool = True) -> None:
    """Each level lies within LEVELS of 255 times the formula, and is 0 where not valid."""
    expected = np.where(valid, 255 * exact, 0)
    off = np.abs(got - expected)
    assert off.max() <= LEVELS, f"{got[off > LEVELS][:3]} for {expected[off > LEVELS][:3]}"


def every_dn(dtype: np.dtype) -> NDArray:
    limits = np.iinfo(dtype)
    return np.arange(limits.min, limits.max + 1).astype(dtype)


def random_triples(seed: int = 1) -> NDArray[np.int16]:
    """240 000 colours: dark, negative, of land, bright and of the whole range; one nodata band."""
    rng = np.random.default_rng(seed)
    ranges = [(-50, 120), (-32767, 32768), (0, 1500), (0, 4000), (2000, 12000), (0, 32768)]
    triples = np.hstack([rng.integers(*limits, (3, 40_000)) for limits in ranges]).astype(INT16)
    triples[1, 12_345] = NODATA
    return triples


@pytest.mark.parametrize("name", SHIPPED)
def test_random_colours_are_the_formulas(name: str) -> None:
    dn = random_triples()
    valid = (dn != NODATA).all(axis=0)
    assert valid.sum() == dn.shape[1] - 1
    assert_close(colours(compiled(name), dn), FORMULAS[name](dn * 1e-4), valid)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("varying", ["grey", 0, 1, 2])
def test_every_dn_is_the_formula_in_grey_and_in_each_band(name: str, varying: str | int) -> None:
    dn = np.full((3, 65536), 900, INT16)
    dn[slice(None) if varying == "grey" else varying] = every_dn(INT16)
    exact = FORMULAS[name](dn * 1e-4)
    assert_close(colours(compiled(name), dn), exact, (dn != NODATA).all(axis=0))


@pytest.mark.parametrize(
    ("rho", "rgb"),
    [
        *(
            ((grey,) * 3, (level,) * 3)
            for grey, level in zip(
                (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1),
                (0, 48, 93, 135, 179, 201, 224, 244),
                strict=True,
            )
        ),
        ((0.25, 0.18, 0.12), (195, 173, 142)),
        ((0.0437, 0.0612, 0.0321), (85, 107, 65)),
    ],
)
def test_l2a_optimized_gives_the_published_vectors(rho: tuple, rgb: tuple) -> None:
    dn = np.round(np.array(rho) * 10_000).astype(INT16)[:, np.newaxis]
    assert tuple(colours(compiled("l2a-optimized"), dn)[:, 0]) == rgb


@pytest.mark.parametrize("name", ["l2a-optimized", "simple-gain", "quicklook"])
def test_grey_stays_grey(name: str) -> None:
    dn = np.tile(every_dn(INT16)[1:], (3, 1))
    red, green, blue = colours(compiled(name), dn)
    assert (red == green).all()
    assert (red == blue).all()


def test_natural_keeps_grey_but_for_the_blue_it_lifts_less() -> None:
    steps = [step for step in read_recipe("natural")["steps"] if "bands" not in step]
    dn = np.tile(every_dn(INT16)[1:], (3, 1))
    got = colours(CompiledRecipe(steps, SENTINEL, INT16), dn).astype(int)
    assert np.ptp(got, axis=0).max() <= 1  # LCH in float32 tips a level on the edge of two
    red, _, blue = colours(compiled("natural"), np.full((3, 1), 800, INT16)).astype(int)
    assert blue < red


# -- Alpha ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("band", [0, 1, 2])
def test_nodata_in_one_band_is_transparent_black_and_dn_0_is_not(name: str, band: int) -> None:
    dn = np.full((3, 2, 3), 1234, INT16)
    dn[band, 1, 2] = NODATA
    dn[:, 0, 0] = 0
    dn[:, 0, 1] = -1
    rgba = compiled(name)(dn)
    assert rgba.dtype == np.uint8
    assert rgba[1, 2].tolist() == [0, 0, 0, 0]
    assert rgba[0, :2].tolist() == [[0, 0, 0, 255]] * 2
    assert (rgba[..., 3] == np.array([[255, 255, 255], [255, 255, 0]])).all()
    assert rgba[0, 2, :3].all()


def test_without_nodata_every_pixel_is_valid() -> None:
    dn = np.array([[[NODATA, 0, 32767]]] * 3, INT16)
    rgba = compiled("simple-gain", replace(SENTINEL, nodata=None))(dn)
    assert rgba[0].tolist() == [[0, 0, 0, 255], [0, 0, 0, 255], [255, 255, 255, 255]]


def test_a_nodata_that_the_data_type_cannot_hold_hides_nothing() -> None:
    dn = np.array([[[0, 128, 255]]] * 3, np.uint8)
    rgba = compiled("simple-gain", DnReading(1 / 255, 0, NODATA), dn.dtype)(dn)
    assert (rgba[..., 3] == 255).all()


# -- Other DN readings ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    ("dtype", "reading"),
    [
        ("uint8", DnReading(1 / 255, 0.0, 0)),
        ("uint8", DnReading(0.004, -0.1, None)),
        ("uint16", DnReading(0.0001, 0.0, 65535)),
        ("uint16", DnReading(0.0001, -0.1, 0)),
        ("uint16", LANDSAT),
        ("int16", DnReading(0.0001, 0.0, 32767)),
    ],
    ids=["uint8", "uint8-offset", "uint16-65535", "uint16-offset", "landsat", "int16-32767"],
)
def test_dn_of_any_type_read_by_scale_offset_and_nodata(
    name: str, dtype: str, reading: DnReading
) -> None:
    grey = every_dn(np.dtype(dtype))
    dn = np.stack([grey, np.roll(grey, 7), np.roll(grey, -5)])
    rho = dn.astype(np.float64) * reading.scale + reading.offset
    valid = (dn != reading.nodata).all(axis=0)
    assert (~valid).sum() == (0 if reading.nodata is None else 3)
    recipe = compiled(name, reading, dn.dtype)
    assert_close(colours(recipe, dn), FORMULAS[name](rho), valid)


def test_rows_of_a_larger_array_give_the_same_as_the_whole() -> None:
    dn = random_triples(2).reshape(3, 400, 600)
    recipe = compiled("l2a-optimized")
    assert (recipe(dn[:, 100:200]) == recipe(dn)[100:200]).all()
    assert (recipe(dn.transpose(0, 2, 1)) == recipe(dn).transpose(1, 0, 2)).all()


# -- A user's own recipe --------------------------------------------------------------------------


def test_a_recipe_of_per_band_steps_between_two_mixing_steps() -> None:
    steps = [
        {"step": "gain", "factor": 3, "bands": ["red"]},
        {"step": "gain", "factor": 2.2, "bands": ["green", "blue"]},
        {"step": "saturation", "factor": 1.5},
        {"step": "power", "exponent": 0.9, "bands": ["blue"]},
        {"step": "sigmoidal", "contrast": 4, "bias": 0.5, "bands": ["red", "green"]},
        {"step": "lch_saturation", "factor": 0.8},
        {"step": "gain", "factor": 0.9, "bands": ["green"]},
    ]
    check({"steps": steps}, "recipe", "test")  # raises if the schema does not allow it
    dn = random_triples(3)
    r, g, b = clip01(dn * 1e-4 * np.array([[3], [2.2], [2.2]]))
    mean = (r + g + b) / 3
    r, g, b = (clip01(mean + 1.5 * (band - mean)) for band in (r, g, b))
    s_0, s_1 = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))
    r, g = ((1 / (1 + np.exp(4 * (0.5 - v))) - s_0) / (s_1 - s_0) for v in (r, g))
    exact = lch_saturated(np.stack([r, g, b**0.9]), 0.8) * np.array([[1], [0.9], [1]])
    got = colours(CompiledRecipe(steps, SENTINEL, INT16), dn)
    # Two tables after mixing steps add up; clipped colours amplify them.
    off = np.abs(got - np.where((dn != NODATA).all(axis=0), 255 * exact, 0))
    assert off.max() <= 1


@pytest.mark.parametrize(
    "step",
    [
        {"step": "gain", "factor": 1000},
        {"step": "white_balance", "red": 1000, "green": 0.1, "blue": 3},
        {"step": "haze", "amount": 1},
        {"step": "levels", "black": 0.03, "white": 0.031},
        {"step": "power", "exponent": 0.1},
        {"step": "gamma", "gamma": 10},
        {"step": "sigmoidal", "contrast": 100, "bias": 0},
        {"step": "sigmoidal", "contrast": 0.1, "bias": 1},
        {"step": "highlight_compression", "maximum": 100, "midpoint": 0.01},
        {"step": "highlight_compression", "maximum": 1, "midpoint": 0.99},
        {"step": "offset_gamma", "gamma": 0.5, "offset": 0},
        {"step": "offset_gamma", "gamma": 9.5, "offset": 1},
        {"step": "srgb"},
    ],
    ids=lambda step: step["step"],
)
def test_any_first_step_keeps_dark_valid_pixels_black_and_the_order_of_greys(step: dict) -> None:
    """Whatever its numbers, and for negative reflectance, where powers are not defined."""
    check({"steps": [step]}, "recipe", "test")
    greys = np.tile(every_dn(INT16)[1:], (3, 1))
    got = colours(CompiledRecipe([step], SENTINEL, INT16), greys)[0].astype(int)
    assert (got[greys[0] <= 0] == 0).all()
    assert (np.diff(got) >= 0).all()
    assert got[-1] > 0


@pytest.mark.parametrize("band", ["red", "green", "blue"])
def test_a_step_for_one_band_leaves_the_others(band: str) -> None:
    steps = [{"step": "gain", "factor": 1}, {"step": "gain", "factor": 2, "bands": [band]}]
    got = colours(CompiledRecipe(steps, SENTINEL, INT16), np.full((3, 1), 2000, INT16))[:, 0]
    expected = {name: 102 if name == band else 51 for name in ("red", "green", "blue")}
    assert got.tolist() == list(expected.values())


def test_steps_apply_in_the_order_listed() -> None:
    double, square = {"step": "gain", "factor": 2}, {"step": "power", "exponent": 2}
    dn = np.full((3, 1), 4000, INT16)
    first = colours(CompiledRecipe([double, square], SENTINEL, INT16), dn)[0, 0]
    second = colours(CompiledRecipe([square, double], SENTINEL, INT16), dn)[0, 0]
    assert (first, second) == (163, 82)  # (2 x 0.4)^2 and 2 x 0.4^2 of 255


# -- Well-known scripts, by their own formulas ----------------------------------------------------


def l1c_optimized(rho: Floats) -> Floats:
    """Sentinel Hub's "L1C optimized": light that the air scatters is taken away by band."""
    max_r, mid_r, sat, gamma, g_off = 3.0, 0.13, 1.3, 2.3, 0.01
    x = clip01((rho - np.array([[0.013], [0.024], [0.041]])) / max_r)
    x = x * (x * (mid_r / max_r) - 1) / (x * (2 * mid_r / max_r - 1) - mid_r / max_r)
    x = ((x + g_off) ** gamma - g_off**gamma) / ((1 + g_off) ** gamma - g_off**gamma)
    c = clip01((x[0] + x[1] + x[2]) / 3 * (1 - sat) + x * sat)
    return np.where(c <= 0.0031308, 12.92 * c, 1.055 * c**0.41666666666 - 0.055)


SCRIPTS: dict[str, tuple[list[dict], Callable[[Floats], Floats]]] = {
    "L1C optimized": (
        [
            {"step": "haze", "amount": 0.013, "bands": ["red"]},
            {"step": "haze", "amount": 0.024, "bands": ["green"]},
            {"step": "haze", "amount": 0.041, "bands": ["blue"]},
            {"step": "highlight_compression", "maximum": 3.0, "midpoint": 0.13},
            {"step": "offset_gamma", "gamma": 2.3, "offset": 0.01},
            {"step": "saturation", "factor": 1.3},
            {"step": "srgb"},
        ],
        l1c_optimized,
    ),
    "Highlight Optimized Natural Color": (
        [
            {"step": "gain", "factor": 0.9},
            {"step": "haze", "amount": 0.055},
            {"step": "power", "exponent": 0.5},
        ],
        lambda rho: np.sqrt(clip01(0.9 * rho - 0.055)),
    ),
    "a stretch between percentiles, and a white balance": (
        [
            {"step": "levels", "black": 0.012, "white": 0.31},
            {"step": "white_balance", "red": 1.06, "green": 1.0, "blue": 0.92},
        ],
        lambda rho: clip01((rho - 0.012) / 0.298 * np.array([[1.06], [1.0], [0.92]])),
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_steps_reproduce_well_known_scripts(name: str) -> None:
    steps, formula = SCRIPTS[name]
    check({"steps": steps}, "recipe", name)
    dn = random_triples(4)
    got = colours(CompiledRecipe(steps, SENTINEL, INT16), dn)
    assert_close(got, clip01(formula(dn * 1e-4)), (dn != NODATA).all(axis=0))


@pytest.mark.parametrize("name", SHIPPED)
def test_steps_without_tables_are_the_formula(name: str) -> None:
    rho = random_triples(5)[:, ::7] * 1e-4
    got = clip01(apply_steps(read_recipe(name)["steps"], rho))
    assert np.abs(got - FORMULAS[name](rho)).max() < 1e-4  # of 1; LCH in float64 differs least

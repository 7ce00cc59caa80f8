"""A chest in three dimensions, drawn from random numbers: the anatomy behind the generated chest CT.

Coordinates are the patient's in mm, as DICOM has them: x to the left, y to the back, z to the head, the
origin in the middle of the chest at the height of the heart. Shapes are signed distances (mm, negative
inside, exact at the surface and roughly right near it), so that slices of any spacing cut the same body and
edges come out anti-aliased. Values are Hounsfield units; typical ones of tissues are textbook values (air
-1000, lung -850, fat -100, muscle 45, cancellous bone 200, cortical bone 700).
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

AIR, LUMEN, FAT, MUSCLE, BLOOD, MARROW, CORTEX = -1000.0, -960.0, -95.0, 48.0, 42.0, 190.0, 700.0
# A vessel splits into two of the same flow: 2 r'^3 = r^3 (Murray's law, 1926).
MURRAY = 2 ** (-1 / 3)

# The surface of a nodule departs from an ellipsoid by at most this part of its radius.
IRREGULARITY = 0.22

Point = np.ndarray
"""Three coordinates x, y, z in mm."""


@dataclasses.dataclass(frozen=True)
class Nodule:
    """A lung nodule: a slightly irregular ellipsoid; `diameter` in mm is the geometric mean of its axes."""

    center: Point
    diameter: float
    axes: np.ndarray
    rotation: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    hounsfield: float

    @property
    def reach(self) -> float:
        """No part of the surface is farther from the centre (mm)."""
        return float(self.diameter / 2 * self.axes.max() * (1 + IRREGULARITY))

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance in mm to the surface."""
        radius = self.diameter / 2
        offset = np.stack(
            np.broadcast_arrays(x - self.center[0], y - self.center[1], z - self.center[2]), axis=-1
        )
        local = offset @ self.rotation / (radius * self.axes)
        length = np.sqrt((local**2).sum(axis=-1))
        direction = local / np.maximum(length, 1e-6)[..., np.newaxis]
        bumps = np.sin(direction @ self.waves.T + self.phases).mean(axis=-1)
        return (length - 1 - IRREGULARITY * bumps) * radius


@dataclasses.dataclass(frozen=True)
class Chest:
    """The anatomy of one patient; all lengths in mm."""

    half_width: float
    half_depth: float
    fat: float
    heart: tuple[float, float, float]
    heart_axes: tuple[float, float, float]
    dome_height: float
    rib_pitch: float
    rib_phase: float
    lung_density: float

    def cavity(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the inner surface of the rib cage, which narrows towards the neck."""
        narrowing = np.sqrt(np.clip(1 - (np.maximum(z + 40, 0) / 210) ** 2, 0.05, 1))
        half_width = (self.half_width - self.fat - 24) * narrowing
        half_depth = (self.half_depth - self.fat - 16) * narrowing
        ratio = (np.abs(x / half_width) ** 2.3 + np.abs(y / half_depth) ** 2.3) ** (1 / 2.3)
        return (ratio - 1) * np.minimum(half_width, half_depth)

    def mediastinum(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to what lies between the lungs: heart, great vessels, spine, and the dome of the liver."""
        column = ellipse(x, y, (2, 8), (27, self.half_depth))
        spine = ellipse(x, y, (0, self.spine_y + 6), (27, 32))
        dome_center = (-62.0, 5.0, self.dome_height - 85)
        dome = ellipsoid(x, y, z, dome_center, (72, 74, 85))
        heart = ellipsoid(x, y, z, self.heart, self.heart_axes)
        return np.minimum(np.minimum(column, spine), np.minimum(dome, heart))

    def lung(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the lungs' surface, both lungs together."""
        return np.maximum(self.cavity(x, y, z), -self.mediastinum(x, y, z))

    @property
    def spine_y(self) -> float:
        return self.half_depth * 0.52


def draw_chest(rng: np.random.Generator) -> Chest:
    """A chest of random build."""
    half_width = rng.uniform(150, 178)
    return Chest(
        half_width=half_width,
        half_depth=half_width * rng.uniform(0.66, 0.74),
        fat=rng.uniform(6, 16),
        heart=(rng.uniform(18, 28), rng.uniform(-30, -22), rng.uniform(-35, -15)),
        heart_axes=(rng.uniform(50, 60), rng.uniform(38, 46), rng.uniform(52, 64)),
        dome_height=rng.uniform(-70, -30),
        rib_pitch=rng.uniform(25, 30),
        rib_phase=rng.uniform(0, 30),
        lung_density=rng.uniform(-880, -830),
    )


def ellipse(
    x: np.ndarray, y: np.ndarray, center: tuple[float, float], axes: tuple[float, float]
) -> np.ndarray:
    ratio = np.sqrt(((x - center[0]) / axes[0]) ** 2 + ((y - center[1]) / axes[1]) ** 2)
    return (ratio - 1) * min(axes)


def ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, center: tuple[float, ...], axes: tuple[float, ...]
) -> np.ndarray:
    parts = zip((x, y, z), center, axes, strict=True)
    return (np.sqrt(sum(((along - middle) / axis) ** 2 for along, middle, axis in parts)) - 1) * min(axes)


# Growing


def draw_nodules(
    chest: Chest, rng: np.random.Generator, heights: np.ndarray, count: int, diameters: tuple[float, float]
) -> list[Nodule]:
    """`count` nodules spread over the `heights` (z in mm) of the slices.

    Diameters lie in `diameters`, log-uniform but for a lean to larger ones (square root), one is 12 mm or
    more; a third touches the pleura, a sixth of those of 10 mm or more is ground glass. None lies at the
    hilum or within 4 mm of another.
    """
    nodules: list[Nodule] = []
    levels = (np.arange(count) + rng.uniform(0.3, 0.7, count)) / count
    for order, level in enumerate(rng.permutation(levels)):
        low = max(diameters[0], 12.0) if order == 0 else diameters[0]
        share = rng.uniform() ** 0.5  # of the logarithmic range
        diameter = float(low * (diameters[1] / low) ** share)
        at_pleura = bool(rng.random() < 1 / 3)
        height = heights[0] + level * (heights[-1] - heights[0])
        center = place_nodule(chest, rng, height, diameter, at_pleura, nodules)
        while center is None:  # too large for this height: a smaller one fits
            diameter = max(diameter * 0.85, diameters[0])
            center = place_nodule(chest, rng, height, diameter, at_pleura, nodules)
        ground_glass = diameter >= 10 and rng.random() < 1 / 6
        axes = np.exp(rng.uniform(-0.2, 0.2, 3))
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        nodules.append(
            Nodule(
                center=center,
                diameter=diameter,
                axes=axes / np.cbrt(axes.prod()),
                rotation=rotation,
                waves=rng.normal(size=(4, 3)) * 2.5,
                phases=rng.uniform(0, 2 * np.pi, 4),
                hounsfield=float(rng.uniform(-540, -440) if ground_glass else rng.uniform(0, 80)),
            )
        )
    return nodules


def place_nodule(
    chest: Chest,
    rng: np.random.Generator,
    height: float,
    diameter: float,
    at_pleura: bool,
    others: list[Nodule],
) -> Point | None:
    """A centre at about `height`, None where 400 tries find no room."""
    radius = diameter / 2
    for _ in range(400):
        point = np.array([rng.uniform(-150, 150), rng.uniform(-110, 110), height + rng.uniform(-2, 2)])
        depth, wall = -float(chest.lung(*point)), -float(chest.cavity(*point))
        if at_pleura:
            fits = 0.35 * radius < wall < 0.8 * radius and depth > 0.3 * radius
        else:
            fits = depth > radius * 1.1 + 2
        free = all(np.linalg.norm(point - other.center) > radius + other.diameter / 2 + 4 for other in others)
        if fits and free and np.hypot(abs(point[0]) - 40, point[1] - 5) > 25 + radius:
            return point
    return None


@dataclasses.dataclass(frozen=True)
class Tube:
    """A straight piece of vessel or airway between two points.

    Its radius changing from one end to the other.
    """

    start: Point
    end: Point
    start_radius: float
    end_radius: float


def grow_vessels(chest: Chest, rng: np.random.Generator, generations: int = 8) -> list[Tube]:
    """The branching pulmonary vessels of both lungs, from the hilum to near the pleura."""
    # Sixteen trunks a lung, all around the axis from hilum to side, so that no part stays without vessels.
    side = np.repeat([-1.0, 1.0], 16)
    turn = np.tile(np.arange(16) * 2 * np.pi / 8, 2) + rng.uniform(-0.3, 0.3, 32)
    aside = side * rng.uniform(0.2, np.where(np.arange(32) % 16 < 8, 0.7, 1.6))
    height = np.repeat(rng.uniform(5, 20, 2), 16)
    start = np.stack([side * 34, np.full(32, 5.0), height], axis=1)
    direction = unit(np.stack([aside, np.cos(turn), 1.2 * np.sin(turn)], axis=1))
    length, radius = rng.uniform(26, 40, 32), rng.uniform(3.4, 5.0, 32)
    tubes: list[Tube] = []
    for generation in range(generations):
        end = start + direction * length[:, np.newaxis]
        if generation > 0:
            grows = chest.lung(*end.T) < -2.5
            start, end, direction = start[grows], end[grows], direction[grows]
            length, radius = length[grows], radius[grows]
        tubes += [
            Tube(*piece) for piece in zip(start, end, radius.tolist(), (0.9 * radius).tolist(), strict=True)
        ]
        start, radius = np.repeat(end, 2, axis=0), np.repeat(radius, 2) * MURRAY
        direction = unit(np.repeat(direction, 2, axis=0) + 0.5 * rng.normal(size=start.shape))
        length = np.repeat(length, 2) * rng.uniform(0.65, 0.95, len(start))
    return tubes


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def airways(rng: np.random.Generator) -> list[Tube]:
    """Trachea and main bronchi."""
    carina = np.array([0.0, 12.0, rng.uniform(20, 45)])
    return [
        Tube(carina + np.array([0, -6, 160]), carina, 9.5, 9.0),
        Tube(carina, carina + np.array([-42, 4, -28]), 7.0, 5.5),
        Tube(carina, carina + np.array([46, 4, -36]), 6.5, 5.0),
    ]


# Painting


def paint(volume: np.ndarray, distance: np.ndarray, value: float | np.ndarray, edge: float) -> None:
    """Blend `value` into `volume` where `distance` is negative; the edge is `edge` mm wide."""
    fraction = np.clip(0.5 - distance / edge, 0, 1)
    volume += fraction * (value - volume)


def box_around(
    low: Point, high: Point, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[slice, slice, slice] | None:
    """The (z, y, x) part of a volume between two corners; None where it is empty."""
    ranges = []
    for axis, coordinates in ((2, z), (1, y), (0, x)):
        first, last = np.searchsorted(coordinates, [low[axis], high[axis]])
        if first == last:
            return None
        ranges.append(slice(int(first), int(last)))
    return ranges[0], ranges[1], ranges[2]


def paint_tube(
    volume: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, tube: Tube, value: float, edge: float
) -> None:
    """Blend one tube into the part of `volume` around it.

    `x`, `y`, `z` are the coordinates along the axes.
    """
    margin = max(tube.start_radius, tube.end_radius) + edge
    low, high = np.minimum(tube.start, tube.end), np.maximum(tube.start, tube.end)
    box = box_around(low - margin, high + margin, x, y, z)
    if box is None:
        return
    dx, dy, dz = (
        x[None, None, box[2]] - tube.start[0],
        y[None, box[1], None] - tube.start[1],
        z[box[0], None, None] - tube.start[2],
    )
    ax, ay, az = tube.end - tube.start
    share = np.clip((dx * ax + dy * ay + dz * az) / (ax * ax + ay * ay + az * az), 0, 1)
    squares = (dx - share * ax) ** 2 + (dy - share * ay) ** 2 + (dz - share * az) ** 2
    radius = tube.start_radius + share * (tube.end_radius - tube.start_radius)
    paint(volume[box], np.sqrt(squares) - radius, value, edge)


def render(
    chest: Chest, nodules: list[Nodule], rng: np.random.Generator, x: np.ndarray, y: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the chest into slices.

    Args:
        x, y, z: increasing voxel coordinates in mm along columns, rows and slices.

    Returns:
        Hounsfield units float32 and the nodule mask uint8, both (z, y, x).
    """
    edge = float(x[1] - x[0])
    gx, gy, gz = (part.astype(np.float32) for part in (x[None, None, :], y[None, :, None], z[:, None, None]))
    volume = np.full((len(z), len(y), len(x)), AIR, dtype=np.float32)
    paint_couch(volume, chest, gx, gy, edge)
    cavity, lung = chest.cavity(gx, gy, gz), chest.lung(gx, gy, gz)
    skin = ellipse(gx, gy, (0, 0), (chest.half_width, chest.half_depth))
    paint(volume, skin, FAT, edge)
    paint(volume, skin + chest.fat, MUSCLE, edge)
    paint(volume, cavity, FAT + 40, edge)
    paint_bones(volume, chest, cavity, gx, gy, gz, edge)
    paint(volume, ellipsoid(gx, gy, gz, chest.heart, chest.heart_axes) + 4, BLOOD, edge)
    dome = ellipsoid(gx, gy, gz, (-62, 5, chest.dome_height - 85), (71, 73, 84))
    paint(volume, np.maximum(dome, cavity), 60.0, edge)
    for center, radius in (((24, chest.spine_y * 0.6), 13), ((-14, -32), 16), ((12, -14), 13)):
        paint(volume, ellipse(gx, gy, center, (radius, radius)), BLOOD, edge)  # aorta twice, pulmonary artery
    gravity = chest.lung_density + 45 * gy / chest.half_depth + texture(rng, volume.shape, 22.0)
    paint(volume, lung, gravity, edge)
    for tube in grow_vessels(chest, rng):
        paint_tube(volume, x, y, z, tube, BLOOD, edge)
    tubes = airways(rng)
    # All walls before all lumens: they join at the carina.
    for widened, value in ((2.0, MUSCLE), (0.0, LUMEN)):
        for tube in tubes:
            start_radius, end_radius = tube.start_radius + widened, tube.end_radius + widened
            paint_tube(volume, x, y, z, Tube(tube.start, tube.end, start_radius, end_radius), value, edge)
    mask = np.zeros(volume.shape, dtype=np.uint8)
    for nodule in nodules:
        reach = nodule.reach + edge
        box = box_around(nodule.center - reach, nodule.center + reach, x, y, z)
        if box is None:
            continue
        own = nodule.distance(gx[..., box[2]], gy[:, box[1]], gz[box[0]])
        distance = np.maximum(own, lung[box] - 0.5)  # a nodule at the pleura ends there
        paint(volume[box], distance, np.maximum(volume[box], nodule.hounsfield), edge)
        mask[box] |= (distance < 0).astype(np.uint8)
    return scanned(volume, rng), mask


def paint_couch(volume: np.ndarray, chest: Chest, x: np.ndarray, y: np.ndarray, edge: float) -> None:
    """A curved patient couch: a thin shell around foam."""
    surface = chest.half_depth + 2 - 40 * (1 - np.sqrt(np.clip(1 - (x / 300) ** 2, 0, 1)))
    depth = np.maximum(np.abs(y - surface - 9) - 9, np.abs(x) - 205)
    paint(volume, depth, -30.0, edge)
    paint(volume, depth + 2.5, -930.0, edge)


def paint_bones(
    volume: np.ndarray,
    chest: Chest,
    cavity: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    edge: float,
) -> None:
    """Ribs that slope from the spine to the front, spine, sternum and shoulder blades."""
    angle = np.abs(np.arctan2(x, y))  # 0 at the back, pi at the front
    height = np.mod(z + 38 * angle + chest.rib_phase, chest.rib_pitch) - chest.rib_pitch / 2
    rib = np.maximum(np.sqrt(((cavity - 7) / 4) ** 2 + (height / 6) ** 2) * 4 - 4, angle * 40 - 2.6 * 40)
    spine_y = chest.spine_y
    body = ellipse(x, y, (0, spine_y), (19, 15))
    canal = ellipse(x, y, (0, spine_y + 23), (10, 8))
    arch = np.maximum(ellipse(x, y, (0, spine_y + 23), (17, 14)), -canal)
    spinous = np.maximum(np.abs(x) - 3.5, np.abs(y - spine_y - 42) - 13)
    transverse = np.maximum(np.abs(y - spine_y - 24 - 0.12 * np.abs(x)) - 5, np.abs(x) - 36)
    sternum = ellipse(x, y, (0, -(chest.half_depth - chest.fat - 10)), (21, 6))
    blade = np.maximum(
        np.abs((np.abs(x) - 100) * 0.64 + (y - chest.half_depth * 0.62) * 0.77) - 3.5,
        np.abs((np.abs(x) - 100) * 0.77 - (y - chest.half_depth * 0.62) * 0.64) - 30,
    )
    shoulder_blade = np.maximum(np.maximum(blade, 11 - cavity), 5 - z)
    walls = (
        (rib, 1.6), (body, 1.8), (arch, 2.0), (spinous, 1.6), (transverse, 1.8), (sternum, 1.8),
        (shoulder_blade, 1.5),
    )  # fmt: skip
    for bone, wall in walls:
        paint(volume, bone, CORTEX, edge)
        paint(volume, bone + wall, MARROW, edge)
    paint(volume, canal, 25.0, edge)


def texture(rng: np.random.Generator, shape: tuple[int, ...], strength: float) -> np.ndarray:
    """Smooth random variation in every slice with a standard deviation of `strength`, a few pixels wide."""
    smooth = blurred(rng.standard_normal(shape, dtype=np.float32), 2.5)
    return smooth * np.float32(strength / smooth.std())


def scanned(volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of it: a little blur, and noise of 20 HU that neighbouring pixels share."""
    noise = blurred(rng.standard_normal(volume.shape, dtype=np.float32), 0.5)
    return blurred(volume, 0.45) + noise * np.float32(20.0 / noise.std())


def blurred(volume: np.ndarray, sigma: float) -> np.ndarray:
    """Every slice blurred by a Gaussian, `sigma` in pixels."""
    return np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in volume])

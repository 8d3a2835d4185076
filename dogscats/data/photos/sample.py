"""Synthetic pictures of cats and dogs, drawn with Pillow, for the built-in sample dataset.

Only the anatomy differs between the classes. Pose, fur, background, position, size, rotation, lighting, blur, noise,
occlusion and JPEG quality are drawn from the same distributions for both.
"""

import math
import random
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Kind = Literal["cat", "dog"]
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

UNITS = 100  # side of the square on which an animal is drawn
SCALE = 4  # pixels per unit; supersampled for smooth edges

FURS: list[Color] = [
    (226, 160, 90), (190, 120, 60), (120, 85, 60), (70, 58, 52), (150, 150, 155), (95, 98, 108),
    (238, 225, 205), (215, 195, 160), (48, 46, 50), (175, 140, 110),
]  # fmt: skip
BACKGROUNDS: list[tuple[Color, Color]] = [  # wall or sky, floor or ground
    ((160, 205, 240), (110, 170, 80)), ((225, 215, 195), (150, 110, 75)), ((190, 200, 215), (120, 120, 130)),
    ((240, 200, 160), (200, 170, 120)), ((120, 140, 110), (80, 95, 60)), ((210, 180, 200), (140, 80, 90)),
    ((90, 95, 120), (60, 55, 60)), ((245, 245, 240), (215, 210, 205)),
]  # fmt: skip


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, int(channel * factor)) for channel in color)
    return red, green, blue


class _Animal:
    """One animal on a transparent square of `UNITS` by `UNITS`."""

    def __init__(self, kind: Kind, rng: random.Random):
        self.kind, self.rng = kind, rng
        self.image = Image.new("RGBA", (UNITS * SCALE, UNITS * SCALE))
        self.draw = ImageDraw.Draw(self.image)
        self.fur = rng.choice(FURS)
        self.dark, self.light = _shade(self.fur, 0.62), _shade(self.fur, 1.35)
        self.outline = _shade(self.fur, 0.4)
        self.line = max(1, int(0.7 * SCALE))

    def paint(self) -> Image.Image:
        """Draw the animal in one of four poses."""
        pose = self.rng.choice(["face", "sitting", "standing", "lying"])
        if pose == "face":
            self.head(50, 52, 30)
        elif pose == "sitting":
            self.tail(66, 82)
            self.body((30, 42, 70, 95))
            for x in (40, 54):
                self.ellipse((x - 1, 66, x + 9, 96))
            self.head(50, 30, 17)
        elif pose == "standing":
            self.tail(80, 50)
            for x in (28, 38, 66, 75):
                self.ellipse((x - 4, 58, x + 4, 92))
            self.body((20, 38, 84, 72))
            self.head(22, 36, 15)
        else:
            self.tail(86, 78)
            self.body((22, 54, 92, 88))
            for y in (80, 85):
                self.ellipse((6, y, 44, y + 8))
            self.head(26, 50, 16)
        return self.image

    def ellipse(self, box: Box, fill: Color | None = None) -> None:
        """Draw an outlined ellipse, by default in the fur colour."""
        pixels = [SCALE * value for value in box]
        self.draw.ellipse(pixels, fill=fill or self.fur, outline=self.outline, width=self.line)

    def polygon(self, points: list[tuple[float, float]], fill: Color) -> None:
        """Draw an outlined polygon."""
        pixels = [(SCALE * x, SCALE * y) for x, y in points]
        self.draw.polygon(pixels, fill=fill, outline=self.outline, width=self.line)

    def curve(self, points: list[tuple[float, float]], width: float, fill: Color) -> None:
        """Draw a thick line with round joints."""
        pixels = [(SCALE * x, SCALE * y) for x, y in points]
        self.draw.line(pixels, fill=fill, width=max(1, int(SCALE * width)), joint="curve")

    def body(self, box: Box) -> None:
        """Draw the trunk, plain or with stripes or patches, for both classes."""
        self.ellipse(box)
        pattern = self.rng.choice(["plain", "stripes", "patches"])
        if pattern == "plain":
            return
        marks = Image.new("RGBA", self.image.size)
        draw = ImageDraw.Draw(marks)
        left, top, right, bottom = box
        for number in range(6):
            if pattern == "stripes":
                x = left + (right - left) * (number + 0.7) / 6.5
                slanted = [SCALE * v for v in (x, top, x + self.rng.uniform(-5, 5), bottom - 8)]
                draw.line(slanted, fill=self.dark, width=int(2.4 * SCALE))
            elif number < 3:
                x, y = self.rng.uniform(left, right - 8), self.rng.uniform(top, bottom - 8)
                size = self.rng.uniform(8, 18)
                draw.ellipse([SCALE * v for v in (x, y, x + size, y + size)], fill=self.light)
        inside = Image.new("L", self.image.size)
        inset = [SCALE * v for v in (left + 1, top + 1, right - 1, bottom - 1)]
        ImageDraw.Draw(inside).ellipse(inset, fill=255)
        marks.putalpha(ImageChops.multiply(marks.getchannel("A"), inside))
        self.image.alpha_composite(marks)

    def tail(self, x: float, y: float) -> None:
        """Draw a long thin tail for a cat, a short thick one for a dog."""
        bend = self.rng.uniform(0.6, 1.4)
        long = self.kind == "cat"
        length, width = (34, 4) if long else (17, 6.5)
        points = []
        for number in range(13):
            t = number / 12
            sway = math.sin(t * math.pi * (1.6 if long else 0.5) * bend)
            points.append((x + (6 * t + 7 * sway), y - length * t))
        self.curve(points, width + 1.4, self.outline)
        self.curve(points, width, self.dark if self.rng.random() < 0.3 else self.fur)

    def head(self, x: float, y: float, r: float) -> None:
        """Draw the head with its centre at `(x, y)` and radius `r`."""
        if self.kind == "cat":
            self.cat_head(x, y, r)
        else:
            self.dog_head(x, y, r)
        if self.rng.random() < 0.35:  # a collar
            band = (x - 0.75 * r, y + 0.75 * r, x + 0.75 * r, y + 1.12 * r)
            color = self.rng.choice([(200, 40, 50), (40, 80, 190), (30, 140, 80)])
            self.draw.arc([SCALE * v for v in band], 10, 170, fill=color, width=int(0.16 * r * SCALE))

    def eyes(self, x: float, y: float, r: float, iris: Color, slit: bool) -> None:
        """Draw two eyes, open or nearly closed."""
        openness = self.rng.choice([1.0, 1.0, 0.8, 0.25])
        for side in (-1, 1):
            cx, cy = x + side * 0.42 * r, y - 0.12 * r
            w, h = 0.2 * r, 0.2 * r * openness
            self.ellipse((cx - w, cy - h, cx + w, cy + h), iris)
            pupil = 0.05 * r if slit else 0.12 * r
            self.ellipse((cx - pupil, cy - 0.85 * h, cx + pupil, cy + 0.85 * h), (15, 15, 18))

    def cat_head(self, x: float, y: float, r: float) -> None:
        """Draw pointed ears, a round face, slit pupils, a small nose and whiskers."""
        spread = self.rng.uniform(0.75, 0.95)
        for side in (-1, 1):
            ear = [(0.95, 0.25), (spread, 1.35), (0.2, 0.85)]
            self.polygon([(x + side * a * r, y - b * r) for a, b in ear], self.fur)
            inner = [(0.83, 0.45), (spread - 0.05, 1.12), (0.38, 0.8)]
            self.polygon([(x + side * a * r, y - b * r) for a, b in inner], (222, 160, 160))
        self.ellipse((x - r, y - 0.92 * r, x + r, y + 0.92 * r))
        for side in (-1, 1):
            self.ellipse(
                (x + side * 0.2 * r - 0.24 * r, y + 0.26 * r, x + side * 0.2 * r + 0.24 * r, y + 0.66 * r),
                self.light,
            )
        iris = self.rng.choice([(120, 180, 70), (220, 190, 60), (90, 160, 200), (110, 75, 40)])
        self.eyes(x, y, r, iris, slit=True)
        nose = [(-0.11, 0.22), (0.11, 0.22), (0, 0.36)]
        self.polygon([(x + a * r, y + b * r) for a, b in nose], (205, 110, 120))
        for side in (-1, 1):
            for slope in (-0.12, 0.02, 0.16):
                start, end = (x + side * 0.35 * r, y + 0.42 * r), (x + side * 1.3 * r, y + (0.42 + slope) * r)
                self.curve([start, end], 0.5, (240, 240, 240) if sum(self.fur) < 330 else (70, 65, 65))

    def dog_head(self, x: float, y: float, r: float) -> None:
        """Draw hanging or upright ears, a long muzzle, a big nose, round pupils and sometimes a tongue."""
        upright = self.rng.random() < 0.25
        if upright:
            for side in (-1, 1):
                ear = [(0.9, 0.3), (0.85, 1.2), (0.55, 1.3), (0.15, 0.8)]
                self.polygon([(x + side * a * r, y - b * r) for a, b in ear], self.dark)
        self.ellipse((x - 0.88 * r, y - 0.95 * r, x + 0.88 * r, y + 0.85 * r))
        iris = self.rng.choice([(110, 75, 40), (90, 160, 200), (150, 110, 60)])
        self.eyes(x, y - 0.08 * r, r, iris, slit=False)
        drop = self.rng.uniform(0.8, 1.1)
        if self.rng.random() < 0.5:
            tongue = (x - 0.17 * r, y + 0.7 * r, x + 0.17 * r, y + 1.25 * r)
            self.ellipse(tongue, (225, 95, 110))
        self.ellipse((x - 0.45 * r, y + 0.08 * r, x + 0.45 * r, y + drop * r), self.light)
        self.ellipse((x - 0.2 * r, y + 0.12 * r, x + 0.2 * r, y + 0.4 * r), (30, 26, 28))
        self.curve([(x, y + 0.4 * r), (x, y + 0.62 * r)], 0.6, (40, 30, 30))
        if not upright:
            hang = self.rng.uniform(0.5, 0.95)
            for side in (-1, 1):
                cx = x + side * 0.92 * r
                self.ellipse((cx - 0.27 * r, y - 0.75 * r, cx + 0.27 * r, y + hang * r), self.dark)


def draw_animal(kind: Kind, seed: int | str) -> Image.Image:
    """Draw one synthetic picture, determined by the arguments: RGB, sides of 130 to 220 pixels."""
    rng = random.Random(f"{seed}")
    width, height = rng.randint(130, 220), rng.randint(130, 220)
    picture = _background(width, height, rng)

    animal = _Animal(kind, rng).paint()
    if rng.random() < 0.5:
        animal = ImageOps.mirror(animal)
    animal = animal.rotate(rng.gauss(0, 14), Image.Resampling.BICUBIC)
    side = int(min(width, height) * rng.uniform(0.65, 1.2))
    animal = animal.resize((side, side), Image.Resampling.LANCZOS)
    # The animal may be partly outside the picture.
    left = int(rng.uniform(-0.1 * side, width - 0.9 * side))
    top = int(rng.uniform(-0.1 * side, height - 0.9 * side))
    picture.paste(animal, (left, top), animal)

    if rng.random() < 0.3:
        _put_in_front(picture, (left, top, left + side, top + side), rng)
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.6, 1.2))
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.4, 1.3))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.choice([0, 0.3, 0.6, 1.2])))
    return _noisy(picture, rng)


def _background(width: int, height: int, rng: random.Random) -> Image.Image:
    wall, ground = rng.choice(BACKGROUNDS)
    picture = Image.new("RGB", (width, height), wall)
    draw = ImageDraw.Draw(picture)
    horizon = int(height * rng.uniform(0.35, 0.8))
    draw.rectangle((0, horizon, width, height), fill=ground)
    for _ in range(rng.randint(3, 14)):  # background clutter
        x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(4, 45)
        box = (x, y, x + size, y + size * rng.uniform(0.3, 1.5))
        color = _shade(rng.choice([wall, ground, *FURS]), rng.uniform(0.6, 1.3))
        shape = rng.choice(["rectangle", "ellipse", "line"])
        if shape == "line":
            draw.line(box, fill=color, width=rng.randint(1, 4))
        else:
            getattr(draw, shape)(box, fill=color)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))


def _put_in_front(picture: Image.Image, box: tuple[int, int, int, int], rng: random.Random) -> None:
    """Occlude part of `box` by a box, a ball or a plant."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = box
    size = (right - left) * rng.uniform(0.18, 0.36)
    x, y = rng.uniform(left, right - size), rng.uniform(top, bottom - size)
    color = rng.choice([(180, 60, 50), (60, 110, 170), (200, 180, 90), (90, 90, 95)])
    thing = rng.choice(["box", "ball", "plant"])
    if thing != "plant":
        shape = draw.rectangle if thing == "box" else draw.ellipse
        shape((x, y, x + size, y + size), fill=color, outline=_shade(color, 0.5))
    else:
        for _ in range(12):
            tip = (x + rng.uniform(0, size), y + rng.uniform(0, 0.4 * size))
            green = _shade((60, 130, 60), rng.uniform(0.6, 1.3))
            draw.line((x + size / 2, y + 1.3 * size, *tip), fill=green, width=rng.randint(2, 5))


def _noisy(picture: Image.Image, rng: random.Random) -> Image.Image:
    strength = rng.choice([0, 4, 8, 16])
    noise = Image.frombytes("L", picture.size, rng.randbytes(picture.width * picture.height))
    grey = noise.point(lambda value: 128 + (value - 128) * strength // 128)
    return ImageChops.add(picture, Image.merge("RGB", [grey] * 3), offset=-128)

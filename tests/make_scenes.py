"""Photographs with many, tiny, huge, cut off and tilted faces, made of the samples; where the faces lie is known."""

import cv2
import numpy as np

from facesieve.images import read_photo

BOXES = {  # left, top, width, height of the face in each sample, drawn by hand
    "biden-1": (215, 88, 133, 192),
    "collins-1": (179, 65, 90, 111),
    "hopper-1": (182, 128, 169, 206),
    "obama-1": (244, 56, 153, 219),
    "obama-2": (118, 134, 154, 231),
    "obama-3": (283, 136, 140, 185),
}
AROUND = (0.25, 0.15, 0.05, 0.0, -0.05, -0.1)  # shares of the box's sides that a close-up leaves around it


def samples(folder):
    """The six samples by name."""
    return {name: read_photo(folder / f"{name}.jpg") for name in BOXES}


def head(photo, box, width):
    """A head with some room around it, its face ``width`` pixels wide, and where the face's middle lies in it."""
    left, top, w, h = box
    room = int(min(0.9 * w, left, top))
    cut = photo[top - room : top + h + room, left - room : left + w + room]
    ratio = width / w
    size = (round(cut.shape[1] * ratio), round(cut.shape[0] * ratio))
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    return cv2.resize(cut, size, interpolation=method), np.array([room + w / 2, room + h / 2]) * ratio


def grey_canvas(width, height):
    """Soft grey clouds in which there is no face."""
    small = np.random.default_rng(0).normal(110, 30, (height // 8, width // 8)).clip(0, 255).astype(np.uint8)
    grey = cv2.GaussianBlur(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 6)
    return np.repeat(grey[..., None], 3, axis=2)


def scene(folder, width, height, places):
    """A canvas with heads at ``places`` (x, y of the corner, width of the face), and for each face its middle and its width."""
    photos, canvas, wanted = samples(folder), grey_canvas(width, height), []
    for number, (x, y, side) in enumerate(places):
        name = list(BOXES)[number % len(BOXES)]
        cut, middle = head(photos[name], BOXES[name], side)
        cut = cut[: height - y, : width - x]
        canvas[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
        wanted.append((*(middle + (x, y)), side))
    return canvas, wanted


def crowd(folder, side):
    """30 faces in 24 megapixels."""
    return scene(folder, 6000, 4000, [(500 + n % 10 * 510, 900 + n // 10 * 900, side) for n in range(30)])


def panorama(folder):
    """Six faces of 75 pixels across 9,000."""
    return scene(folder, 9000, 1500, [(600 + n * 1450, 500 + n % 3 * 150, 75) for n in range(6)])


def beside(folder, side=70, large=1500):
    """Ten small faces beside a large one, in 24 megapixels."""
    small = [(4200 + n % 5 * 350, 800 + n // 5 * 1500, side) for n in range(10)]
    return scene(folder, 6000, 4000, [(200, 100, large), *small])


def close_ups(folder):
    """The samples and their mirror images in six crops each, from loose to such as cut into the face: 72 photographs."""
    for name, photo in samples(folder).items():
        x, y, w, h = BOXES[name]
        for share in AROUND:
            top, left = max(round(y - share * h), 0), max(round(x - share * w), 0)
            cut = photo[top : round(y + h + share * h), left : round(x + w + share * w)]
            yield np.ascontiguousarray(cut)
            yield np.ascontiguousarray(cut[:, ::-1])


def tilted(photo, box, degrees, side=700):
    """A sample turned about its face's middle, in a square frame; beyond the photograph its border is repeated."""
    x, y, w, h = box
    matrix = cv2.getRotationMatrix2D((x + w / 2, y + h / 2), degrees, 1)
    matrix[:, 2] += side / 2 - np.array([x + w / 2, y + h / 2])
    return cv2.warpAffine(photo, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def hard(folder):
    """Each sample's head, 180 pixels wide on a canvas, or tiny, in twelve states in which a face is hard to find."""
    rng = np.random.default_rng(0)
    for name, photo in samples(folder).items():
        large, middle = head(photo, BOXES[name], 180)
        x, y = middle.astype(int)
        noise = rng.normal(0, 1, large.shape)
        states = [(cv2.GaussianBlur(large, (0, 0), width), 180) for width in (14, 18, 22)]
        states += [((large + level * noise).clip(0, 255).astype(np.uint8), 180) for level in (70, 110, 150)]
        covered = [(slice(y, None), slice(None)), (slice(None), slice(x, None)), (slice(y - 60, y + 5), slice(None))]
        for place in covered:
            states.append((large.copy(), 180))
            states[-1][0][place] = 80
        states += [(head(photo, BOXES[name], side)[0], side) for side in (9, 12, 15)]
        for state, side in states:
            canvas = grey_canvas(640, 640)
            canvas[100 : 100 + state.shape[0], 100 : 100 + state.shape[1]] = state[:540, :540]
            yield canvas, (*(middle * side / 180 + 100), side)


def matched(found, wanted):
    """How many of the ``wanted`` faces were found, and how many faces were found beyond them, doubles included."""
    left, hits = list(found), 0
    for x, y, side in wanted:
        near = [f for f in left if np.hypot(f.box[0] + f.box[2] / 2 - x, f.box[1] + f.box[3] / 2 - y) < 0.5 * side]
        near = [f for f in near if 0.5 < f.box[2] / side < 2]
        if near:
            hits += 1
            left = [f for f in left if f is not near[0]]
    return hits, len(left)

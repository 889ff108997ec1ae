"""Polygons along the edges of the voxels of a slice's mask.

A polygon through voxel centres, as OpenCV finds it, is half a voxel too small on each side and degenerate for a single
voxel. A polygon along the edges encloses exactly the area of the voxels, so filling it restores the mask.

Points are in voxels, ``[N, 2]`` (x, y); voxel centres are whole numbers, corners lie half way between. Voxels that
touch only at a corner belong to different polygons. A polygon of an RTSTRUCT has no holes, so a hole is connected to
the outer polygon by a channel of zero width (the keyhole of DICOM PS3.3 section C.8.8.6.3).
"""

import numpy as np

Vertex = tuple[int, int]
Edges = dict[Vertex, set[int]]
"""Directions (0 +x, 1 +y, 2 -x, 3 -y) of the edges that start at each corner; the mask is on their left."""

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Outline the voxels of a slice.

    Args:
        mask: ``[X, Y]`` bool.

    Returns:
        Closed polygons ``[N, 2]`` of corners, counter-clockwise if x points right and y up.
    """
    if not mask.any():
        return []
    # work on the bounding box only, since an organ is a small part of its slice
    first = [int(np.flatnonzero(mask.any(axis=1 - axis))[0]) for axis in (0, 1)]
    last = [int(np.flatnonzero(mask.any(axis=1 - axis))[-1]) for axis in (0, 1)]
    edges = _edges(mask[first[0] : last[0] + 1, first[1] : last[1] + 1])
    loops = _trace(edges)
    holes = [loop for loop in loops if _area(loop) < 0]
    if holes:
        _join(edges, holes)
        loops = _trace(edges)
    return [np.array(loop, float) + first - 0.5 for loop in loops]


def _edges(mask: np.ndarray) -> Edges:
    """Edges between a voxel of the mask and one outside, directed so that the mask is on the left."""
    inside = np.pad(np.asarray(mask, bool), 1)
    core = inside[1:-1, 1:-1]
    below, above = inside[1:-1, :-2], inside[1:-1, 2:]
    before, after = inside[:-2, 1:-1], inside[2:, 1:-1]
    # for each side of a voxel: the neighbour, the start of the edge relative to the voxel, and its direction
    sides = ((below, (0, 0), 0), (after, (1, 0), 1), (above, (1, 1), 2), (before, (0, 1), 3))
    edges: Edges = {}
    for beyond, start, direction in sides:
        for x, y in (np.argwhere(core & ~beyond) + start).tolist():
            edges.setdefault((x, y), set()).add(direction)
    return edges


def _trace(edges: Edges) -> list[list[Vertex]]:
    """Follow the edges to closed loops of corners, turning left at junctions."""
    unused = {vertex: set(directions) for vertex, directions in edges.items()}
    loops = []
    for start in edges:
        while unused[start]:
            loops.append(_loop(edges, unused, start))
    return loops


def _loop(edges: Edges, unused: Edges, start: Vertex) -> list[Vertex]:
    first = min(unused[start])
    vertex, direction = start, first
    loop = []
    while True:
        unused[vertex].remove(direction)
        vertex = _next(vertex, direction)
        turns = [(direction + turn) % 4 for turn in (1, 0, 3, 2)]
        onward = next(turn for turn in turns if turn in edges[vertex])
        if onward != direction:
            loop.append(vertex)
        direction = onward
        if (vertex, direction) == (start, first):
            return loop


def _next(vertex: Vertex, direction: int) -> Vertex:
    return vertex[0] + STEPS[direction][0], vertex[1] + STEPS[direction][1]


def _area(loop: list[Vertex]) -> float:
    """Signed area (shoelace formula): positive around voxels, negative around a hole."""
    x, y = np.array(loop, float).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _join(edges: Edges, holes: list[list[Vertex]]) -> None:
    """Add a channel from each hole to the next loop on its left.

    The channel starts at the lowest of the hole's leftmost corners. The voxels on both sides of it are in the mask,
    since a voxel outside would touch the hole and belong to it. Each channel ends farther left than it starts, so two
    holes never connect only to each other.
    """
    corners = set(edges)
    for hole in holes:
        vertex = min(hole)
        while True:
            edges.setdefault(vertex, set()).add(2)
            vertex = _next(vertex, 2)
            edges.setdefault(vertex, set()).add(0)
            if vertex in corners:
                break

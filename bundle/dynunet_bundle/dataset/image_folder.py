"""The images of a folder as cases; the channels of a case may be separate files, by nnU-Net's names.

Whether files are channels depends on the files of the same case only, so a stray file or an incomplete case changes
neither the grouping nor the names of the others.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dynunet_bundle.dataset.cases import Case, absolute, list_images, name_of, require_unique
from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.files import CHANNEL_SUFFIX, IMAGE_SUFFIXES, PICTURE_SUFFIXES, case_name
from dynunet_bundle.images.read import read_volume

Channels = dict[int, Path]
"""Files of a case by the number of the channel, ascending."""


def find_images(source: str | Path, num_channels: int = 1) -> list[Case]:
    """Images to predict: one file, or all images directly in a folder.

    Files with nnU-Net's names (``case_0000``, ``case_0001``, ...) are one case if they are the plan's channels, or if
    channels are missing: such a case fails, and its error names them. Files that have all channels are cases of their
    own whatever their names; a single picture loses the number.

    Args:
        source: an image file or a folder of images.
        num_channels: channels of the plan.

    Returns:
        Unlabelled cases, sorted by name.

    Raises:
        DatasetError: if there are no images, or a name occurs twice.
        CaseError: if a file is not an image.
    """
    path = absolute(source)
    if path.is_file():
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            raise CaseError(
                case_name(path),
                f"{path.name} is not an image file",
                f"Convert it to one of {', '.join(IMAGE_SUFFIXES)}.",
            )
        return [{"image": str(path)}]
    if not path.is_dir():
        raise DatasetError(f"{source} does not exist. Pass --input with an image or a folder.")
    images = list_images(path)
    if not images:
        raise DatasetError(f"{source} contains no image ({', '.join(IMAGE_SUFFIXES)}).")
    require_unique([case_name(file) for file in images], str(source))
    groups, others = group_channels(images)
    cases: list[Case] = [{"image": str(file)} for file in others]
    for name, channels in groups.items():
        cases += _cases_of(name, channels, num_channels)
    require_unique([name_of(case) for case in cases], str(source))
    return sorted(cases, key=name_of)


def _cases_of(name: str, channels: Channels, num_channels: int) -> list[Case]:
    """One case of all channels, or one per file."""
    first, *_ = channels.values()
    is_picture = list(channels) == [0] and is_whole_picture(first)
    if list(channels) == list(range(num_channels)) or is_picture:
        return [{"image": list(map(str, channels.values())), "name": name}]
    if _num_channels(first) in (None, num_channels):
        return [{"image": str(file)} for file in channels.values()]
    # the missing files are listed: reading the case fails and names them
    strays = [file for channel, file in channels.items() if channel >= num_channels]
    files = [str(channel_file(channels, channel)) for channel in range(num_channels)]
    return [{"image": files, "name": name}, *({"image": str(file)} for file in strays)]


def _num_channels(file: Path) -> int | None:
    """Channels in a file; None if it cannot be read, which its case will report."""
    try:
        return len(read_volume(file).array)
    except Exception:  # noqa: BLE001 - the readers raise a dozen types
        return None


def is_whole_picture(file: Path) -> bool:
    """Whether a file has all colours: nnU-Net names the channels R, G and B, but has only ``case_0000.png``."""
    return file.name.lower().endswith(PICTURE_SUFFIXES)


def group_channels(files: Iterable[Path]) -> tuple[dict[str, Channels], list[Path]]:
    """Files that are named ``case_0000``, ``case_0001``, ... by case, and all other files.

    Args:
        files: image files, sorted.
    """
    groups: dict[str, Channels] = {}
    others = []
    for file in files:
        match = CHANNEL_SUFFIX.match(case_name(file))
        if match is None:
            others.append(file)
        else:
            groups.setdefault(match["name"], {})[int(match["channel"])] = file
    return groups, others


def channel_file(channels: Channels, channel: int) -> Path:
    """The file of a channel; where it is missing, the name that it should have."""
    if channel in channels:
        return channels[channel]
    (number, file), *_ = channels.items()
    name = case_name(file)
    stem = name.removesuffix(f"{number:04d}")
    return file.with_name(f"{stem}{channel:04d}{file.name[len(name) :]}")


def missing_channels(channels: Channels, num_channels: int) -> Sequence[Path]:
    """Files that a case lacks, of as many channels as the data set has."""
    wanted = range(num_channels)
    return [channel_file(channels, channel) for channel in wanted if channel not in channels]

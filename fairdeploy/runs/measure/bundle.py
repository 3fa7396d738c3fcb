"""``fairdeploy bundle``: a folder that measures files on a device that has no fairdeploy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fairdeploy.deployment.devices.device_job import (
    INPUTS_FILE,
    JOB_FILE,
    SCRIPT_FILE,
    inputs_bytes,
    job_text,
    network_files,
)
from fairdeploy.deployment.devices.device_script import device_script
from fairdeploy.deployment.exporter_api import get_exporter
from fairdeploy.deployment.latency.measure import race_settings
from fairdeploy.errors import OutputError, UsageError
from fairdeploy.files import folder_built_aside, require_room_for
from fairdeploy.inputs.made_up_inputs import make_up_inputs
from fairdeploy.records import TargetProfile
from fairdeploy.runs.folder.manifest import is_own_file
from fairdeploy.runs.measure.file_inputs import batches_of, common_signature
from fairdeploy.runs.measure.run import changed_profile
from fairdeploy.settings.options import BundleOptions
from fairdeploy.settings.target_profiles import profile_toml

PROFILE_FILE = "profile.toml"
README_FILE = "README.txt"
_PLACES = ("first", "second")
_README = """Measures {what} on this device, for the target '{target}'.

    python3 -m pip install numpy onnxruntime    # once; Python 3.8 or newer
    python3 measure.py

It prints a table and writes result.json: every timed call, and what the device tells of itself.
It takes about {seconds:.0f} s at most. Nothing else should run meanwhile.

{files}
job.json       what is measured and how; change threads, affinity or settings there
inputs.npz     one batch of {batch}, made up
profile.toml   the target, for fairdeploy measure --target profile.toml
"""


def bundle(options: BundleOptions) -> tuple[str, ...]:
    """Write the folder; names of what is in it.

    Raises:
        OutputError: The folder exists, or the disk refused.
        UsageError: Not one or two files, or they take different inputs.
        ExportError: A file cannot be opened, or its runtime cannot measure on other devices.
    """
    _check_output(options.output, force=options.force)
    files = _networks(options.sources)
    profile = changed_profile(options.target, options.seconds, options.idle_gap_ms)
    script = device_script(get_exporter(profile.runtime))
    signature = common_signature(files, profile, is_elsewhere=True)
    asked = () if options.batch is None else (options.batch,)
    (batch,) = batches_of(signature, asked, profile.batch)
    profile = replace(profile, batch=batch)
    inputs = make_up_inputs(signature, batch, options.sizes, seed=options.seed)
    with folder_built_aside(options.output, "choose another folder") as folder:
        names = [_put(path, folder / place) for place, path in zip(_PLACES, files, strict=False)]
        texts = {
            SCRIPT_FILE: script,
            JOB_FILE: job_text(
                profile, race_settings(profile), names, INPUTS_FILE, batch=batch, seed=options.seed
            ),
            PROFILE_FILE: profile_toml(profile),
            README_FILE: _readme(profile, files, names),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / INPUTS_FILE).write_bytes(inputs_bytes(inputs))
    return (*names, INPUTS_FILE, *texts)


def _check_output(folder: Path, *, force: bool) -> None:
    require_room_for(folder, "choose another folder")
    if not (folder.exists() or folder.is_symlink()):
        return
    is_ours = (folder / JOB_FILE).is_file() and (folder / SCRIPT_FILE).is_file()
    if not force or not is_ours:
        advice = "or add --force" if is_ours else "which fairdeploy bundle did not write"
        raise OutputError(f"'{folder}' exists; choose another folder, {advice}")


def _networks(sources: Sequence[Path]) -> tuple[Path, ...]:
    """The files that are named, or those that lie in the folder that is named."""
    if len(sources) == 1 and sources[0].is_dir():
        files = tuple(sorted(sources[0].glob("*.onnx")))
        if not 1 <= len(files) <= len(_PLACES):
            raise UsageError(
                f"'{sources[0]}' holds {len(files)} .onnx files; name the one or two to measure"
            )
        link = next((file for file in files if not is_own_file(sources[0], file)), None)
        if link is not None:
            raise UsageError(
                f"'{link}' is a link or no regular file, so it may lead out of the folder; "
                "name the file itself if you mean it"
            )
        return files
    if not 1 <= len(sources) <= len(_PLACES):
        raise UsageError(f"{len(sources)} files given; give one to measure, or two to race")
    return tuple(sources)


def _put(path: Path, folder: Path) -> str:
    """Copy a network into a new folder; the name there, as ``first/model.onnx``."""
    files = network_files(path)
    try:
        folder.mkdir()
        for file in files:
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise OutputError(
            f"cannot write '{folder}': {error.strerror or error}; choose a folder with enough space"
        ) from error
    return f"{folder.name}/{path.name}"


def _readme(profile: TargetProfile, files: Sequence[Path], names: Sequence[str]) -> str:
    num_races = 1 if profile.idle_gap_ms is None else 2
    what = f"'{files[0].name}'"
    if len(files) > 1:
        what += f" against '{files[1].name}', call by call in turn,"
    return _README.format(
        what=what,
        target=profile.name,
        seconds=profile.warmup_seconds + num_races * profile.max_seconds,
        files="\n".join(names),
        batch=profile.batch,
    )

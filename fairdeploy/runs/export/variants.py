"""Makes one file after the other for ``fairdeploy export``, and checks each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fairdeploy.deployment.exporter_api import Exporter, unusable_because
from fairdeploy.deployment.parity import repeated
from fairdeploy.deployment.variant_checks import check_variant, tolerance_of, unchecked
from fairdeploy.records import (
    Artifact,
    Divergence,
    OnnxChanges,
    TargetProfile,
    Tolerance,
    VariantCheck,
)
from fairdeploy.runs.export.images import ExportImages
from fairdeploy.runs.export.requests import Request
from fairdeploy.runs.folder.artifact_folder import ONNX, ONNX_FILE
from fairdeploy.settings.options import ExportOptions
from fairdeploy.settings.target_profiles import list_profiles

_FULL = "fp32"


@dataclass(slots=True)
class VariantMaker:
    """Knows the folder, the images, and which ONNX files were made on the way."""

    folder: Path
    work: Path
    """For files on the way; nothing in it stays."""
    options: ExportOptions
    images: ExportImages
    profile: TargetProfile
    exporters: Mapping[str, Exporter]
    onnx: Exporter
    max_drop: float
    _sources: dict[str, Path] = field(default_factory=dict)
    """ONNX files by precision, with the batch and opset that are asked for."""

    def make(self, request: Request) -> VariantCheck:
        """Write one file and check it.

        Raises:
            ExportError: It cannot be written, or fails to run.
        """
        exporter = request.exporter.with_max_drop(self.max_drop)
        is_onnx = request.exporter.name == ONNX
        has_more = is_onnx and (self.options.embed_preprocess or self.options.probabilities)
        path = self.folder / request.file_name
        place = self.work / request.file_name if has_more else path
        wanted = _FULL if is_onnx else exporter.onnx_precision(request.precision)
        source = self._source(wanted)
        calibration = self.images.batches(self.options.batch)
        artifact = exporter.convert(source, place, request.precision, calibration)
        if is_onnx:
            self._sources.setdefault(request.precision, place)
        if has_more:
            artifact = self.onnx.change(place, path, self._last_changes())
        return self._checked(request, artifact)

    def _source(self, precision: str) -> Path:
        """The ONNX file of that precision; made if it is not there yet."""
        if precision not in self._sources:
            self._sources[precision] = (
                self._base() if precision == _FULL else self._converted(precision)
            )
        return self._sources[precision]

    def _base(self) -> Path:
        """The file that shrink wrote, with another batch or opset where one is asked for."""
        written = self.folder / ONNX_FILE
        changes = OnnxChanges(batch=self.options.batch, opset=self.options.opset)
        if changes == OnnxChanges():
            return written
        self.onnx.change(written, self.work / ONNX_FILE, changes)
        return self.work / ONNX_FILE

    def _converted(self, precision: str) -> Path:
        path = self.work / f"source-{precision}.onnx"
        self.onnx.with_max_drop(self.max_drop).convert(
            self._source(_FULL), path, precision, self.images.batches(self.options.batch)
        )
        return path

    def _last_changes(self) -> OnnxChanges:
        """Those of input and output, which calibration must not see."""
        preprocessing = self.images.preprocessing if self.options.embed_preprocess else None
        return OnnxChanges(preprocessing=preprocessing, probabilities=self.options.probabilities)

    def _checked(self, request: Request, artifact: Artifact) -> VariantCheck:
        tolerance = tolerance_of(request.precision, self.profile.parity_limit)
        profile, problem = self._profile_for(request)
        if problem:
            return unchecked(artifact, tolerance, self.max_drop, problem)
        is_onnx = request.exporter.name == ONNX
        runner = request.exporter.open(self.folder / request.file_name, profile)
        try:
            examples = self.images.judging(
                batch=self.options.batch,
                as_pixels=is_onnx and self.options.embed_preprocess,
                as_probabilities=is_onnx and self.options.probabilities,
            )
            check = check_variant(runner, artifact, examples, tolerance, self.max_drop)
        finally:
            runner.close()
        if check.passed is False and is_onnx:
            return replace(check, divergence=self._divergence(request, tolerance))
        return check

    def _profile_for(self, request: Request) -> tuple[TargetProfile, str]:
        """A profile that opens the file here, and what is in the way if none does."""
        name, precision = request.exporter.name, request.precision
        own = [profile for profile in (self.profile, *list_profiles()) if profile.runtime == name]
        problem = ""
        for profile in own:
            found = unusable_because(replace(profile, precision=precision), self.exporters)
            if found is None:
                return replace(profile, precision=precision), ""
            problem = problem or found
        return replace(self.profile, runtime=name, precision=precision), problem

    def _divergence(self, request: Request, tolerance: Tolerance) -> Divergence | None:
        """Where it parts from the fp32 file; None where nothing can be said."""
        batch = self.options.batch or self.images.examples.batch or 4
        inputs = repeated(self.images.examples.inputs, 0, batch)
        arrays = tuple(tensor.numpy() for tensor in inputs)
        suspect = self._sources[request.precision]
        return self.onnx.first_divergence(
            self._source(_FULL), suspect, arrays, tolerance.max_relative_error
        )

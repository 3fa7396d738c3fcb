"""Options that several commands share: how each is spelled, and its line of help."""

from __future__ import annotations

from typing import Annotated

import typer

from fairdeploy.records import (
    ALLOCATION_RULES,
    CHANNEL_ORDERS,
    CLASS_ORDERS,
    CROP_MODES,
    INTERPOLATIONS,
    SIGNALS,
)
from fairdeploy.records.method import ATTENTION_OPTIONS
from fairdeploy.records.task_names import TASKS

_WHAT_MAY_GO = "What may go"
_THERE = "On another machine"
_HOW = "How it decides"

Model = Annotated[
    str,
    typer.Argument(
        help="A checkpoint (.pt, .pth, .safetensors, .pt2), timm:NAME or torchvision:NAME."
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="The network of a state dict: timm:NAME, torchvision:NAME or package.module:factory."
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="KEY",
        help="Which weights of a checkpoint that holds several: a key or prefix of names, such as "
        "model_ema or student; if not given, averaged ones are taken where they are there.",
    ),
]
NumClasses = Annotated[int | None, typer.Option(help="Length of the classifier.", min=1)]
InputSize = Annotated[
    str | None, typer.Option(metavar="H or C,H,W", help="Image size that the network takes.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:SIZES[:TYPE[:COUNT]]",
        help="An input of a network that takes more than one image; give one for each. NAME is the "
        "parameter of its forward. SIZES leave the batch out: 3,224,224; a size that may change is "
        "NAME=MIN-MAX or NAME=MIN-MAX/STEP, as in 3,H=192-320/32,W=192-320/32, and NAME alone is "
        "the same size again. TYPE: float32, int64, int32 or bool. COUNT: whole numbers lie below "
        "it. The first float32 input of three sizes takes the images.",
    ),
]
MainOutput = Annotated[
    str | None,
    typer.Option(
        "--main-output",
        metavar="NAME",
        help="The output with the scores, where there are several; the first if not given.",
    ),
]
FixedBatch = Annotated[
    int | None,
    typer.Option(
        help="Images at a time, for a network that takes no other number, or a file that shall.",
        min=1,
    ),
]
Mean = Annotated[
    str | None, typer.Option(metavar="M,M,M", help="Mean per channel, of pixels in [0, 1].")
]
Std = Annotated[str | None, typer.Option(metavar="S,S,S", help="Standard deviation per channel.")]
CropPct = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the resized image that is cut out of its centre: 0.875, 1 for all of it.",
    ),
]
CropBy = Annotated[
    str | None,
    typer.Option(
        "--crop-mode",
        metavar="|".join(CROP_MODES),
        help="center: the shorter side is scaled to fit, the centre cut out; squash: both sides "
        "are scaled to fit; border: the longer side is, with borders.",
    ),
]
InterpolateBy = Annotated[
    str | None,
    typer.Option("--interpolation", metavar="|".join(INTERPOLATIONS), help="Of resizing."),
]
ChannelsIn = Annotated[
    str | None,
    typer.Option(
        "--channel-order",
        metavar="|".join(CHANNEL_ORDERS),
        help="The order of the colours that the network takes; bgr where OpenCV read its images.",
    ),
]
White = Annotated[
    int | None,
    typer.Option(
        help="The value of white in images of 16 bits a colour: 4095 for 12 bits; found from the "
        "images if not given.",
        min=1,
        max=65535,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="The classes in the order in which the network has them."),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="|".join((*TASKS, "FILE.PY:FACTORY")),
        help="What the answers are for; told from the labels and the output if not given.",
    ),
]
OrderBy = Annotated[
    str | None,
    typer.Option(
        "--class-order",
        metavar="|".join(CLASS_ORDERS),
        help="Class folders are numbered with 2 before 10 (natural, as timm does, if not given) or "
        "10 before 2 (text, as torchvision does).",
    ),
]
Target = Annotated[str | None, typer.Option(help="Where it will run; see 'fairdeploy targets'.")]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="GLOB",
        help="Only these modules may shrink: layer4, 'blocks.*.mlp'. Repeatable.",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="These modules keep their width, and all that share it. Repeatable.",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
MaxPrune = Annotated[
    list[str] | None,
    typer.Option(
        "--max-prune",
        metavar="[GLOB=]SHARE",
        help="Largest share of any group's units that may go: 0.7, 'layer4.*=0.3'. Repeatable.",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
MinUnits = Annotated[
    list[str] | None,
    typer.Option(
        "--min-units",
        metavar="[GLOB=]N",
        help="What every group keeps at least: 8, 'layer4.*=16'. Repeatable.",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        help="Make channel counts multiples of this, instead of what the target likes.",
        min=1,
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(ATTENTION_OPTIONS),
        help="What may go from attention: whole heads (the default), channels within heads.",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
AllowNormCoupled = Annotated[
    bool,
    typer.Option(
        "--allow-norm-coupled",
        help="Let channels go that layer norms take statistics over: not exact, and reported.",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
Blocks = Annotated[
    bool | None,
    typer.Option(
        "--blocks/--no-blocks",
        help="Let whole residual blocks go, so that deep networks get shallower (default: no).",
        rich_help_panel=_WHAT_MAY_GO,
    ),
]
SignalBy = Annotated[
    str | None,
    typer.Option(
        "--signal",
        metavar="NAME",
        help="What is removed by; if not given: reconstruction where layers are refitted, else the "
        f"U-Score (wasserstein): {', '.join(SIGNALS)}.",
        rich_help_panel=_HOW,
    ),
]
ProtectBy = Annotated[
    str | None,
    typer.Option(
        "--protect",
        metavar="NAME",
        help="What protects, instead of the R-Score (taylor): one of the signals, or none, with "
        "which the removal signal protects too.",
        rich_help_panel=_HOW,
    ),
]
AllocationBy = Annotated[
    str | None,
    typer.Option(
        "--allocation",
        metavar="|".join(ALLOCATION_RULES),
        help="How much goes from each group: by the tolerance of difference (tod), the same share "
        "(uniform), one threshold (global), or one threshold for groups of a kind (isomorphic).",
        rich_help_panel=_HOW,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of every random choice; 0 if not given.", min=0)]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Let the checkpoint run its own code.")
]
TrustProject = Annotated[
    bool,
    typer.Option(
        "--trust-project",
        help="Let a fairdeploy.toml or report.json that is not in the current folder name code to "
        "run.",
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="NAME=N", help="A size that varies beside the batch."),
]
Seconds = Annotated[
    float | None, typer.Option(help="The longest that one measurement may take.", min=0.1)
]
IdleGap = Annotated[
    float | None,
    typer.Option(
        metavar="MS", help="Time calls this far apart too, as a camera makes them.", min=0.001
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Host = Annotated[
    str | None,
    typer.Option(metavar="USER@DEVICE", help="Measure there, by ssh.", rich_help_panel=_THERE),
]
Port = Annotated[int | None, typer.Option(help="Of its ssh server.", min=1, rich_help_panel=_THERE)]
RemotePython = Annotated[
    str, typer.Option(help="Python there, with numpy and onnxruntime.", rich_help_panel=_THERE)
]
SshOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="'-i KEY'", help="More for ssh itself. Repeatable.", rich_help_panel=_THERE
    ),
]

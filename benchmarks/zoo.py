"""What `convwise check` reads in networks of torchvision, timm, segmentation_models_pytorch and
ultralytics.

    pip install timm torchvision segmentation_models_pytorch ultralytics onnxscript
    python benchmarks/zoo.py                         # all of NETWORKS, into docs/zoo.md
    python benchmarks/zoo.py timm:resnet26t          # some of them, to the terminal alone
    python benchmarks/zoo.py --seconds 600           # as many as that allows, those without rows

Params are compared with sum(p.numel() for p in module.parameters()), in ONNX with the numbers of
the file's float initializers; macs with half of what torch.utils.flop_counter counts, which knows
no bias either; the field with what the module's own forward makes of NaNs, which spread exactly to
what reads them (benchmarks/seen.py).
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convwise.core.layers import Opaque
from convwise.core.problems import ConvwiseError
from convwise.formats.lifted import Lifted
from convwise.inspect.checking import checked
from convwise.inspect.models import load
from seen import differs

PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
HEAD = """# The networks of torchvision, timm, segmentation_models_pytorch and ultralytics

What `convwise check` reads in them as PyTorch callables, .pt2 files and ONNX files (as
torch.onnx.export writes them by default), written by `benchmarks/zoo.py`, which says how to run it.
*Exact*: params equal those of the module's `parameters()` that its forward reads (in ONNX the
numbers of the file's initializers that may be weights), macs equal PyTorch's own count
(`torch.utils.flop_counter`, halved), and the receptive field is known. Otherwise it is said what is
not. An ONNX file holds other params than its module: a BatchNorm behind a convolution is folded
into it, its two numbers per channel into one bias (so hgnetv2_b0's file holds 6,136 fewer, a number
for each of its channels that are normalised); one that stays holds its mean and variance as well.
*Seen*: `yes` where the first and the last unit of the last map see exactly the px from which a NaN
in the image reaches them; `-` where the field is unknown, no map is left, or an earlier run did not
look. Seconds: of one reading, beside whatever else the machine did. A network without a row in a
format was not tried in it.

| network | format | exact, or what is unknown | params | macs, M | field, px | seen | seconds |
|---|---|---|---:|---:|---:|---|---:|
"""
NETWORKS = """
torchvision: alexnet convnext_tiny deeplabv3_resnet50 densenet121 efficientnet_b0 efficientnet_v2_s
fcn_resnet50 googlenet inception_v3 lraspp_mobilenet_v3_large mnasnet1_0 mobilenet_v2
mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d
shufflenet_v2_x1_0 squeezenet1_1 vgg11_bn wide_resnet50_2 swin_t vit_b_16 timm: convmixer_768_32
convnextv2_atto cs3darknet_s cspdarknet53 cspresnet50 cspresnext50 darknet53 densenetblur121d dla34
dla46_c dpn68 ecaresnet26t efficientnet_lite0 ese_vovnet19b_dw fasternet_t0 fastvit_t8 fbnetc_100
gcresnet33ts gernet_s ghostnet_100 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0
hrnet_w18_small hrnet_w18_small_v2 inception_next_tiny inception_resnet_v2 inception_v4 lcnet_050
legacy_xception mixnet_s mnasnet_small mobilenetv1_100 mobilenetv2_100 mobilenetv3_small_050
mobilenetv4_conv_small mobileone_s0 nf_regnet_b0 nf_resnet26 dm_nfnet_f0 nfnet_f0 poolformer_s12
regnetv_040 regnetx_002 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_26w_4s
res2next50 resnest14d resnet10t resnet26t resnetaa50 resnetblur18 resnetv2_18 resnetv2_50x1_bit
rexnet_100 selecsls42 seresnet50 skresnet18 spnasnet_100 starnet_s1 tinynet_e tresnet_m vovnet39a
xception41 tf_efficientnet_cc_b0_4e botnet26t_256 coatnet_0_rw_224 edgenext_xx_small levit_128s
maxvit_tiny_rw_224 mixer_s32_224 mobilevit_xxs pvt_v2_b0 swin_tiny_patch4_window7_224
vit_tiny_patch16_224 test_byobnet test_convnext test_convnext2 test_efficientnet
test_efficientnet_gn test_efficientnet_ln test_mambaout test_nfnet test_resnet bat_resnext26ts
convformer_s18 cs3sedarknet_l dla60_res2net eca_vovnet39b efficientnetv2_rw_t efficientformer_l1
efficientvit_b0 gcresnext26ts lambda_resnet26t legacy_seresnet18 mambaout_femto
mobilenet_edgetpu_v2_xs poolformerv2_s12 rdnet_tiny resnet33ts resnetrs50 rexnetr_100 semnasnet_075
seresnext26d_32x4d shvit_s1 starnet_s050 swiftformer_xs tf_mixnet_s visformer_tiny smp:
Unet-resnet18 UnetPlusPlus-resnet18 FPN-resnet18 Linknet-resnet18 PSPNet-resnet18 PAN-resnet18
MAnet-resnet18 DeepLabV3-resnet18 DeepLabV3Plus-resnet18 UPerNet-resnet18 Unet-mobilenet_v2
Unet-timm-efficientnet-lite0 Segformer-mit_b0 ultralytics: yolov8n yolov8n-seg yolo11n yolo11n-seg
"""


LIBRARIES = "| timm:", "| torchvision:", "| smp:", "| ultralytics:"  # as rows of the page begin


def networks() -> Iterator[str]:
    library = ""
    for word in NETWORKS.split():
        if word.endswith(":"):
            library = word
        else:
            yield library + word


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network in evaluation, and the (height, width, channels) that it is published for."""
    torch.manual_seed(0)
    module, shape = created(name)
    for tensor in (*module.parameters(), *module.buffers()):
        alike = (
            tensor.ndim == 1 or tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
        )
        # As if trained: exporters leave zeros and ones out
        if alike and tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return module.eval(), shape


def created(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    library, _, model = name.partition(":")
    if library == "timm":
        module = import_module("timm").create_model(model, pretrained=False)
        channels, height, width = module.default_cfg["input_size"]
        return module, (height, width, channels)
    if library == "smp":
        decoder, _, encoder = model.partition("-")
        create = import_module("segmentation_models_pytorch").create_model
        return create(decoder, encoder, encoder_weights=None), (224, 224, 3)
    if library == "ultralytics":
        return import_module("ultralytics").YOLO(f"{model}.yaml", verbose=False).model, (
            640,
            640,
            3,
        )
    backbone = (
        {"weights_backbone": None} if model.startswith(("deeplabv3", "fcn", "lraspp")) else {}
    )
    side = 299 if model.startswith("inception") else 224
    get_model = import_module("torchvision").models.get_model
    module = get_model(model, weights=None, **backbone)
    return module, (side, side, 3)


def macs_of(module: nn.Module, shape: Sequence[int]) -> int:
    """PyTorch's own count, by shapes alone where the module's forward needs no numbers."""
    try:
        return _counted(copy.deepcopy(module).to("meta"), shape, "meta")
    except RuntimeError:  # it reads the numbers of a buffer
        return _counted(copy.deepcopy(module), shape, "cpu")


def _counted(module: nn.Module, shape: Sequence[int], device: str) -> int:
    height, width, channels = shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, channels, height, width, device=device))
    return int(counter.get_total_flops()) // 2


def told(lifted: Lifted, pattern: str) -> int:
    """The number in what is said of the whole network."""
    found = [re.match(pattern, each.what) for each in lifted.problems]
    return sum(int(each[1].replace(",", "")) for each in found if each)


def row(
    name: str, form: str, lifted: Lifted, module: nn.Module, counts: tuple[int, int], seconds: float
) -> str:
    """A line of the table; counts: the params and macs that it should have."""
    analysis = checked(lifted).analysis
    total = analysis.total
    left = told(lifted, r"has ([\d,]+) parameters that its forward never reads")
    besides, said = told(lifted, r"spends ([\d,]+) macs on what does not depend on the image"), []
    if total.uncounted:
        said.append(f"the params of {len(total.uncounted)} layers are unknown")
    elif total.params + left != counts[0]:
        said.append(f"params are {counts[0]:,}")
    if total.unknown:
        said.append(f"the cost of {len(total.unknown)} layers is unknown")
    elif total.macs + besides != counts[1]:
        said.append(f"PyTorch counts {counts[1] / 1e6:,.2f}M macs")
    if not total.field.known:
        far = {
            layer.operator
            for layer in lifted.net.layers
            if isinstance(layer, Opaque) and layer.moves == "unknown"
        }
        said.append("the field is unknown" + f" behind {', '.join(sorted(far))}" * bool(far))
    note = f" ({left:,} params are not read)" if left else ""
    note += f" ({besides / 1e6:,.2f}M macs more do not depend on the image)" if besides else ""
    field = "x".join(map(str, total.field.size)) if total.field.known else "-"
    sees = differs(module, lifted.net.input_shape, analysis) or "yes" if total.field.known else "-"
    cells = (
        name,
        form,
        ("; ".join(said) or "exact") + note,
        f"{total.params:,}",
        f"{total.macs / 1e6:,.2f}",
        field,
    )
    return f"| {' | '.join([*cells, sees, f'{seconds:.1f}'])} |"


def rows(name: str, forms: Sequence[str]) -> Iterator[str]:
    module, shape = made(name)
    params, macs = sum(each.numel() for each in module.parameters()), macs_of(module, shape)
    with tempfile.TemporaryDirectory() as folder:
        for form, model in models(module, shape, forms, folder):
            start = time.perf_counter()
            try:
                lifted = load(model, shape)
                counts = (held(model) if form == "onnx" else params), macs
                yield row(name, form, lifted, module, counts, time.perf_counter() - start)
            except ConvwiseError as error:
                yield (
                    f"| {name} | {form} | {str(error).replace('|', '/')[:200]} | - | - | - | -"
                    " | - |"
                )


def models(
    module: nn.Module, shape: Sequence[int], forms: Sequence[str], folder: str
) -> Iterator[tuple[str, Any]]:
    """The module in each form, as PyTorch writes it; without those that PyTorch cannot write."""
    height, width, channels = shape
    exported = None
    for form in forms:
        if form == "callable":
            yield form, module
            continue
        path = f"{folder}/model.{form}"
        try:
            with torch.no_grad():
                exported = exported or torch.export.export(
                    module, (torch.zeros(2, channels, height, width),)
                )
                if form == "pt2":
                    torch.export.save(exported, path)
                else:
                    torch.onnx.export(exported, (), path, dynamo=True, verbose=False)
        except Exception as error:  # whatever an exporter says
            print(f"{type(module).__name__} as {form}: {type(error).__name__}: {str(error)[:200]}")
            continue
        yield form, path


def held(path: str) -> int:
    """How many float numbers the initializers of an ONNX file hold that may be weights.

    Kernels and biases are, and what the exporter calls a parameter; others are none where they
    scale a Resize, are one number or all alike, as fills are, or are whole and half numbers, as the
    sizes of windows, masks and the anchors of detectors are.
    """
    import onnx

    graph = onnx.load(path).graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    kernels = {name for node in layers for name in node.input[1:]}
    told = [(value.name, about) for value in graph.value_info for about in value.metadata_props]
    kernels |= {
        name
        for name, about in told
        if about.key.endswith("InputSpec.kind") and about.value == "PARAMETER"
    }
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    floats = [
        each
        for each in graph.initializer
        if each.data_type in (1, 10, 11) and each.name not in scales
    ]
    arrays = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in floats
        if each.dims or each.name in kernels
    }
    return sum(
        array.size for name, array in arrays.items()
        if name in kernels or (np.any(array * 2 % 1) and np.ptp(array))
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="library:network")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="CPU time that may be spent"
    )
    parser.add_argument("--forms", default="callable,pt2,onnx")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_LOGS", "-all")
    lines = (
        PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() and not given.names else []
    )
    known = {tuple(line.split(" | ")[:2]): line for line in lines if line.startswith(LIBRARIES)}
    for name in given.names or [
        name for name in networks() if not any(key[0] == f"| {name}" for key in known)
    ]:
        if time.process_time() > given.seconds:
            break
        for line in rows(name, given.forms.split(",")):
            known[tuple(line.split(" | ")[:2])] = line
            print(line, flush=True)
        if not given.names:
            PAGE.write_text(
                HEAD + "\n".join(known[key] for key in sorted(known)) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()

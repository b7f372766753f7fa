"""What `convwise check` reads in the networks of torchvision and timm, beside PyTorch's own counts.

    pip install timm torchvision
    python -m benchmarks.zoo                         # all of NETWORKS, into docs/zoo.md
    python -m benchmarks.zoo timm:resnet26t          # some of them, to the terminal alone
    python -m benchmarks.zoo --seconds 600           # as many as that allows; rows of earlier runs stay

Params are compared with sum(p.numel() for p in module.parameters()), macs with half of what
torch.utils.flop_counter counts, which knows no bias either.
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

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convwise.core.layers import Opaque
from convwise.core.problems import ConvwiseError
from convwise.formats.lifted import Lifted
from convwise.inspect.checking import checked, load

PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
HEAD = """# The networks of torchvision and timm

What `convwise check` reads in them as PyTorch callables (with --forms as .pt2 files too), written by
`benchmarks/zoo.py`, which says how to run it. *Exact*: params equal those of the module's `parameters()` that
its forward reads, macs equal PyTorch's own count (`torch.utils.flop_counter`, halved), and the receptive field
is known. Else it is said what is not. Seconds: of one run, beside whatever else the machine did.

| network | format | exact, or what is unknown | params | macs, M | field, px | seconds |
|---|---|---|---:|---:|---:|---:|
"""
NETWORKS = """
torchvision: alexnet convnext_tiny deeplabv3_resnet50 densenet121 efficientnet_b0 efficientnet_v2_s fcn_resnet50
googlenet inception_v3 lraspp_mobilenet_v3_large mnasnet1_0 mobilenet_v2 mobilenet_v3_small regnet_x_400mf
regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x1_0 squeezenet1_1 vgg11_bn wide_resnet50_2
swin_t vit_b_16
timm: convmixer_768_32 convnextv2_atto cs3darknet_s cspdarknet53 cspresnet50 cspresnext50 darknet53
densenetblur121d dla34 dla46_c dpn68 ecaresnet26t efficientnet_lite0 ese_vovnet19b_dw fasternet_t0 fastvit_t8
fbnetc_100 gcresnet33ts gernet_s ghostnet_100 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0
hrnet_w18_small hrnet_w18_small_v2 inception_next_tiny inception_resnet_v2 inception_v4 lcnet_050
legacy_xception mixnet_s mnasnet_small mobilenetv1_100 mobilenetv2_100 mobilenetv3_small_050
mobilenetv4_conv_small mobileone_s0 nf_regnet_b0 nf_resnet26 dm_nfnet_f0 nfnet_f0 poolformer_s12 regnetv_040
regnetx_002 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_26w_4s res2next50 resnest14d resnet10t
resnet26t resnetaa50 resnetblur18 resnetv2_18 resnetv2_50x1_bit rexnet_100 selecsls42 seresnet50 skresnet18
spnasnet_100 starnet_s1 tinynet_e tresnet_m vovnet39a xception41 tf_efficientnet_cc_b0_4e botnet26t_256
coatnet_0_rw_224 edgenext_xx_small levit_128s maxvit_tiny_rw_224 mixer_s32_224 mobilevit_xxs pvt_v2_b0
swin_tiny_patch4_window7_224 vit_tiny_patch16_224
"""


def networks() -> Iterator[str]:
    library = ""
    for word in NETWORKS.split():
        if word.endswith(":"):
            library = word
        else:
            yield library + word


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network with first weights, and the (height, width, channels) that it is published for."""
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        module = import_module("timm").create_model(model, pretrained=False)
        channels, height, width = module.default_cfg["input_size"]
        return module.eval(), (height, width, channels)
    backbone = {"weights_backbone": None} if model.startswith(("deeplabv3", "fcn", "lraspp")) else {}
    side = 299 if model.startswith("inception") else 224
    get_model = import_module("torchvision").models.get_model
    module = get_model(model, weights=None, **backbone)
    return module.eval(), (side, side, 3)


def macs_of(module: nn.Module, shape: Sequence[int]) -> int:
    height, width, channels = shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(module).to("meta")(torch.empty(1, channels, height, width, device="meta"))
    return int(counter.get_total_flops()) // 2


def row(name: str, form: str, lifted: Lifted, module: nn.Module, macs: int, seconds: float) -> str:
    """A line of the table."""
    total = checked(lifted).analysis.total
    unread = [re.match(r"has ([\d,]+) parameters that its forward never reads", each.what) for each in lifted.problems]
    left = sum(int(found[1].replace(",", "")) for found in unread if found)
    said = []
    if total.params + left != (held := sum(each.numel() for each in module.parameters())):
        said.append(f"params are {held:,}")
    if total.unknown:
        said.append(f"the cost of {len(total.unknown)} layers is unknown")
    elif total.macs != macs:
        said.append(f"PyTorch counts {macs / 1e6:,.0f}M macs")
    if not total.field.known:
        far = {layer.operator for layer in lifted.net.layers if isinstance(layer, Opaque) and layer.moves == "unknown"}
        said.append(f"the field is unknown behind {', '.join(sorted(far))}")
    note = f" ({left:,} params are not read)" if left else ""
    field = "x".join(map(str, total.field.size)) if total.field.known else "-"
    cells = name, form, ("; ".join(said) or "exact") + note, f"{total.params:,}", f"{total.macs / 1e6:,.1f}", field
    return f"| {' | '.join(cells)} | {seconds:.1f} |"


def rows(name: str, forms: Sequence[str]) -> Iterator[str]:
    module, shape = made(name)
    macs = macs_of(module, shape)
    for form in forms:
        with tempfile.TemporaryDirectory() as folder:
            model: Any = module if form == "callable" else saved(module, shape, f"{folder}/model.pt2")
            start = time.perf_counter()
            try:
                lifted = load(model, shape)
                yield row(name, form, lifted, module, macs, time.perf_counter() - start)
            except ConvwiseError as error:
                yield f"| {name} | {form} | {str(error).replace('|', '/')[:200]} | - | - | - | - |"


def saved(module: nn.Module, shape: Sequence[int], path: str) -> str:
    height, width, channels = shape
    with torch.no_grad():
        torch.export.save(torch.export.export(module, (torch.zeros(2, channels, height, width),)), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="library:network")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="CPU time that may be spent")
    parser.add_argument("--forms", default="callable,pt2")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_LOGS", "-all")
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() and not given.names else []
    known = {tuple(line.split(" | ")[:2]): line for line in lines if line.startswith(("| timm:", "| torchvision:"))}
    for name in given.names or [name for name in networks() if not any(name in key[0] for key in known)]:
        if time.process_time() > given.seconds:
            break
        for line in rows(name, given.forms.split(",")):
            known[tuple(line.split(" | ")[:2])] = line
            print(line, flush=True)
        if not given.names:
            PAGE.write_text(HEAD + "\n".join(known[key] for key in sorted(known)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

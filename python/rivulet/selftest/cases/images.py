"""Pooling, resampling, columns of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .models import training
from .table import Table, graded


def images(case: Table) -> None:
    line, image, solid = torch.randn(2, 3, 11), torch.randn(2, 3, 9, 10), torch.randn(2, 3, 5, 6, 7)
    case("max_pool1d", graded(lambda x: F.max_pool1d(x, 3, 2)), line)
    case("max_pool2d", graded(lambda x: F.max_pool2d(x, 3, 2, 1)), image)
    case("max_pool2d, dilated", graded(lambda x: F.max_pool2d(x, 2, 3, 1, 2, ceil_mode=True)), image)
    case("max_pool3d", graded(lambda x: F.max_pool3d(x, 2)), solid)
    case("places of maxima", lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), image)
    ties = image.round().where(image < 1, torch.nan)
    case("places among equals and NaNs", lambda x: F.max_pool2d(x, 3, 1, 1, return_indices=True), ties)
    case("max_pool2d of integers", lambda x: F.max_pool2d(x.int(), 2), image * 9)
    case("max_unpool2d", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), image)
    case("avg_pool1d", graded(lambda x: F.avg_pool1d(x, 3, 2)), line)
    case("avg_pool2d", graded(lambda x: F.avg_pool2d(x, 3, 2, 1)), image)
    for options in ({"count_include_pad": False}, {"divisor_override": 5}):
        case(f"avg_pool2d {options}", graded(lambda x, o=options: F.avg_pool2d(x, 3, 2, 1, True, **o)), image)
    for size in (1, 3, (4, 7), (12, 13)):
        case(f"adaptive_avg_pool2d {size}", graded(lambda x, size=size: F.adaptive_avg_pool2d(x, size)), image)
        case(f"adaptive_max_pool2d {size}", graded(lambda x, size=size: F.adaptive_max_pool2d(x, size)), image)
    case("adaptive_avg_pool1d", graded(lambda x: F.adaptive_avg_pool1d(x, 4)), line)
    last = image.to(memory_format=torch.channels_last)
    case("channels last", lambda x: F.max_pool2d(x, 3) + F.avg_pool2d(x, 3), last)
    case("sum of channels last", lambda x: x + x, last)
    case("float16", lambda x: F.max_pool2d(x.half(), 2, 1) + F.avg_pool2d(x.half(), 2, 1), image)
    for mode in ("nearest", "nearest-exact", "bilinear"):
        for size in ((5, 23), (18, 20)):
            case(f"{mode} {size}", graded(lambda x, s=size, m=mode: F.interpolate(x, s, mode=m)), image)
        case(f"{mode} by a factor", graded(lambda x, m=mode: F.interpolate(x, scale_factor=1.7, mode=m)), image)
    case("aligned", graded(lambda x: F.interpolate(x, (4, 25), mode="bilinear", align_corners=True)), image)
    case("linear", graded(lambda x: F.interpolate(x, 25, mode="linear")), line)
    case("trilinear", graded(lambda x: F.interpolate(x, (9, 3, 10), mode="trilinear")), solid)
    case("columns", graded(lambda x: F.unfold(x, (3, 2), 2, 1, 2)), image)
    case("image of columns", graded(lambda x: F.fold(x, (9, 10), 3, padding=1, stride=2)), torch.randn(2, 27, 25))
    case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 3), torch.randn(2, 18, 4, 5))
    case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 5), torch.randn(2, 3, 10, 15))
    case("channel_shuffle", lambda x: F.channel_shuffle(x, 3), torch.randn(2, 6, 4, 5))

    def small() -> torch.nn.Module:
        nn = torch.nn
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2)
        return nn.Sequential(
            first, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), second, nn.BatchNorm2d(16), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 32),
        )  # fmt: skip

    batch = torch.randn(32, 3, 12, 12)
    case.add("training of a small network of images", lambda: training(small(), batch))

"""Storages, torch.save and torch.load, safetensors, deepcopy and pickle of what lives on mps."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def round_trip(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, **options)


def test_storage_of_a_size():
    storage = torch.UntypedStorage(24, device="mps")
    assert storage.device == torch.device("mps:0") and storage.nbytes() == 24 and type(storage) is torch.UntypedStorage


@pytest.mark.parametrize("device", ["mps", "mps:0", torch.device("mps"), torch.device("mps", 0)])
def test_storage_device_spellings(device):
    assert torch.UntypedStorage(8, device=device).device.type == "mps"


def test_empty_storage():
    assert torch.UntypedStorage(device="mps").nbytes() == 0
    assert torch.UntypedStorage(0, device="mps").nbytes() == 0


def test_storage_of_a_sequence():
    assert torch.UntypedStorage([1, 2, 3], device="mps").cpu().tolist() == [1, 2, 3]


def test_storage_of_a_bad_size_is_an_error():
    with pytest.raises(RuntimeError, match="-1"):
        torch.UntypedStorage(-1, device="mps")
    with pytest.raises((TypeError, RuntimeError)):
        torch.UntypedStorage("nonsense", device="mps")
    with pytest.raises(RuntimeError):
        torch.UntypedStorage(8, device="mps:3")


def test_storages_of_other_devices_are_made_as_before():
    assert torch.UntypedStorage(8).device.type == "cpu"
    assert torch.UntypedStorage(8, device="meta").device.type == "meta"
    assert torch.UntypedStorage([1, 2]).tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="not recognized"):
        torch.UntypedStorage(8, device="vulkan")


def test_storage_under_a_default_device():
    with torch.device("mps"):
        assert torch.ones(3).device.type == "mps"
        assert torch.UntypedStorage(8).device.type == "cpu"
        assert torch.UntypedStorage(8, device="mps").device.type == "mps"


def test_storage_clone_copy_cpu_and_back():
    storage = torch.arange(4, dtype=torch.uint8, device="mps").untyped_storage()
    assert storage.clone().device.type == "mps" and storage.clone().cpu().tolist() == [0, 1, 2, 3]
    assert storage.clone().data_ptr() != storage.data_ptr()
    assert storage.cpu().mps().cpu().tolist() == [0, 1, 2, 3]
    assert storage.mps() is storage


def test_storage_resize():
    storage = torch.arange(4, dtype=torch.uint8, device="mps").untyped_storage()
    storage.resize_(8)
    assert storage.nbytes() == 8 and storage.cpu().tolist()[:4] == [0, 1, 2, 3]
    storage.resize_(8)
    with pytest.raises(RuntimeError, match="from 8 to 0 bytes"):
        storage.resize_(0)
    other = torch.UntypedStorage(4)
    other.resize_(0)
    assert other.nbytes() == 0


def test_tensor_over_a_storage():
    storage = torch.UntypedStorage(16, device="mps").fill_(0)
    tensor = torch.empty(0, device="mps").set_(storage, 0, (4,))
    tensor.fill_(1.0)
    assert tensor.sum().item() == 4
    assert torch.frombuffer(bytearray(storage.cpu().tolist()), dtype=torch.float32).tolist() == [1.0] * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_save_and_load_keep_device_and_values(dtype):
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype).to("mps")
    loaded = round_trip(tensor)
    assert loaded.device == tensor.device and loaded.dtype == dtype
    assert torch.equal(loaded.cpu(), tensor.cpu())


def test_map_location():
    tensor = torch.randn(3, 4)
    assert torch.equal(round_trip(tensor, map_location="mps").cpu(), tensor)
    assert round_trip(tensor, map_location="mps").device.type == "mps"
    assert round_trip(tensor, map_location=torch.device("mps")).device.type == "mps"
    assert round_trip(tensor, map_location=lambda storage, location: storage.mps()).device.type == "mps"
    assert round_trip(tensor.to("mps"), map_location="cpu").device.type == "cpu"
    assert round_trip({"a": tensor.to("mps")}, map_location={"mps": "cpu", "mps:0": "cpu"})["a"].device.type == "cpu"


def test_views_share_after_loading():
    base = torch.arange(10.0, device="mps")
    loaded_base, loaded_view = round_trip([base, base[2:5]])
    loaded_view.zero_()
    assert loaded_base[2:5].sum().item() == 0 and loaded_base.sum().item() == 45 - 9


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dict_of_a_model(tmp_path, legacy):
    model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4)).to("mps")
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    other = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4)).to("mps")
    other.load_state_dict(torch.load(path))
    for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert theirs.device.type == "mps" and torch.equal(ours.cpu(), theirs.cpu())


def test_load_with_mmap(tmp_path):
    path = tmp_path / "t.pt"
    torch.save(torch.arange(5.0), path)
    assert torch.load(path, mmap=True, map_location="mps").cpu().tolist() == [0, 1, 2, 3, 4]


def test_whole_module_pickled(tmp_path):
    model = torch.nn.Linear(3, 2).to("mps")
    loaded = round_trip(model, weights_only=False)
    assert loaded.weight.device.type == "mps" and isinstance(loaded.weight, torch.nn.Parameter)
    assert torch.equal(loaded.weight.cpu(), model.weight.cpu())


def test_pickle_of_a_tensor():
    tensor = torch.arange(6, device="mps").reshape(2, 3).t()
    loaded = pickle.loads(pickle.dumps(tensor))
    assert (
        loaded.device.type == "mps" and loaded.stride() == tensor.stride() and torch.equal(loaded.cpu(), tensor.cpu())
    )


def test_pickle_of_a_generator_state():
    generator = torch.Generator(device="mps").manual_seed(3)
    state = pickle.loads(pickle.dumps(generator.get_state()))
    first = torch.rand(3, device="mps", generator=generator)
    generator.set_state(state)
    assert torch.equal(torch.rand(3, device="mps", generator=generator).cpu(), first.cpu())


def test_deepcopy_of_tensor_parameter_and_module():
    tensor = torch.arange(4.0, device="mps")
    twin = copy.deepcopy(tensor)
    twin.zero_()
    assert tensor.sum().item() == 6 and twin.device == tensor.device
    model = torch.nn.Linear(3, 2).to("mps")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight.zero_()
    assert other.weight.requires_grad and other.weight.device.type == "mps" and model.weight.abs().sum().item() > 0


def test_deepcopy_copies_a_shared_object_once():
    tied = torch.nn.Parameter(torch.ones(2, device="mps"))
    first, second = copy.deepcopy((tied, tied))
    assert first is second and first is not tied


def test_deepcopy_from_several_threads(in_threads):
    model = torch.nn.Linear(16, 16).to("mps")
    x = torch.ones(2, 16, device="mps")
    expected = model(x).cpu()
    results = in_threads(6, lambda index: copy.deepcopy(model).to("mps")(x).cpu())
    assert all(torch.equal(result, expected) for result in results)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {"w": torch.randn(4, 3, device="mps"), "b": torch.ones(3, dtype=torch.bfloat16, device="mps")}
    path = str(tmp_path / "m.safetensors")
    safetensors.save_file(tensors, path)
    for device in ("mps", "mps:0", "cpu"):
        loaded = safetensors.load_file(path, device=device)
        for name, tensor in tensors.items():
            assert loaded[name].device.type == device.split(":")[0] and loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name].cpu(), tensor.cpu())
    model = torch.nn.Linear(3, 4).to("mps")
    safetensors.save_model(model, path)
    safetensors.load_model(model, path, device="mps")


def test_host_alias_sees_and_makes_changes():
    tensor = torch.zeros(4, device="mps")
    torch.mps.synchronize()
    alias = torch.mps._host_alias_storage(tensor.untyped_storage())
    torch.empty(0).set_(alias, 0, (4,)).copy_(torch.arange(4.0))
    torch.mps.synchronize()
    assert tensor.tolist() == [0, 1, 2, 3]


def test_host_alias_keeps_the_memory_alive():
    tensor = torch.arange(1000, dtype=torch.int64, device="mps")
    alias = torch.mps._host_alias_storage(tensor.untyped_storage())
    held = torch.mps.current_allocated_memory()
    del tensor
    gc.collect()
    assert torch.mps.current_allocated_memory() == held
    other = torch.full((1000,), 7, device="mps")
    assert torch.empty(0, dtype=torch.int64).set_(alias, 0, (1000,)).sum().item() == 499500
    del alias, other
    gc.collect()
    assert torch.mps.current_allocated_memory() < held


def test_host_alias_of_a_cpu_storage_is_refused():
    with pytest.raises(RuntimeError, match="cpu"):
        torch.mps._host_alias_storage(torch.UntypedStorage(4))
    with pytest.raises(TypeError, match="UntypedStorage"):
        torch.mps._host_alias_storage(torch.ones(2))


def test_sharing_between_processes_changes_nothing():
    """PyTorch 2.11 would turn the storage into a CPU one in place, and is refused; 2.15 leaves it alone by itself."""
    tensor = torch.ones(4, device="mps")
    model = torch.nn.Linear(2, 2).to("mps")
    for share in (tensor.share_memory_, model.share_memory):
        try:
            share()
        except RuntimeError as error:
            assert "share a .cpu() copy" in str(error)
    for shared in (tensor, model.weight):
        assert shared.untyped_storage().device.type == "mps"
    assert tensor.sum().item() == 4


def test_sending_to_another_process_is_refused():
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing

    with pytest.raises(RuntimeError, match=r"share a \.cpu\(\) copy"):
        ForkingPickler.dumps(torch.ones(4, device="mps"))
    ForkingPickler.dumps(torch.ones(4))

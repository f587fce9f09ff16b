#include "runtime/guard.h"

#include <torch/version.h>

#include "runtime/allocator.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

// What exchangeStream gives back on a thread that had set no stream: passing it in again returns the thread to
// its own slot instead of pinning it to a stream that was never its.
constexpr c10::StreamId kOwnStream = -1;

c10::Stream as_stream(uint32_t id) {
  auto stream_id = id == RIVULET_NO_STREAM ? kOwnStream : static_cast<c10::StreamId>(id);
  return c10::Stream(c10::Stream::UNSAFE, kDevice, stream_id);
}

uint32_t as_id(const c10::Stream& stream) {
  TORCH_CHECK(
      stream.device_type() == c10::kMPS, "expected a stream of the mps device but got one of ", stream.device());
  auto id = stream.id();
  if (id == kOwnStream) {
    return RIVULET_NO_STREAM;
  }
  TORCH_CHECK(id >= 0 && id < RIVULET_NO_STREAM, "mps has no stream with id ", id);
  check(rivulet_stream_check(static_cast<uint32_t>(id)));
  return static_cast<uint32_t>(id);
}

// An event handle travels through c10's void*; handles start at 1, so null means "not made yet".
uint64_t as_event(void* event) {
  return reinterpret_cast<uint64_t>(event);
}

void check_index(c10::Device device) {
  TORCH_CHECK(
      device.index() <= 0, "invalid device ordinal: mps has 1 device (index 0), got index ", int(device.index()));
}

class MpsGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override {
    return c10::kMPS;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    check_index(device);
    return kDevice;
  }
  c10::Device getDevice() const override {
    return kDevice;
  }
  void setDevice(c10::Device device) const override {
    check_index(device);
  }
  void uncheckedSetDevice(c10::Device) const noexcept override {}

  c10::Stream getStream(c10::Device) const override {
    uint32_t id = 0;
    check(rivulet_stream_current(&id));
    return as_stream(id);
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    return as_stream(0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool high_priority) const override {
    uint32_t id = 0;
    check(rivulet_stream_new(high_priority ? -1 : 0, &id));
    return as_stream(id);
  }
  c10::Stream getNewStream(c10::Device, int priority) const override {
    uint32_t id = 0;
    check(rivulet_stream_new(priority, &id));
    return as_stream(id);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    uint32_t previous = 0;
    check(rivulet_stream_exchange(as_id(stream), &previous));
    return as_stream(previous);
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    // There is no native queue behind a logical stream; its id is the handle.
    return reinterpret_cast<void*>(static_cast<uintptr_t>(as_id(stream)));
  }

  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    if (event) {
      rivulet_event_free(as_event(event));
    }
  }
  void record(void** event, const c10::Stream& stream, c10::DeviceIndex, c10::EventFlag flag) const override {
    if (!*event) {
      uint64_t handle = 0;
      check(rivulet_event_new(flag == c10::EventFlag::BACKEND_DEFAULT, &handle));
      *event = reinterpret_cast<void*>(handle);
    }
    check(rivulet_event_record(as_event(*event), as_id(stream)));
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event) {
      check(rivulet_event_wait(as_event(event), as_id(stream)));
    }
  }
  bool queryEvent(void* event) const override {
    if (!event) {
      return true;
    }
    int32_t done = 0;
    int32_t recorded = 0;
    check(rivulet_event_query(as_event(event), &done, &recorded));
    return done || !recorded;
  }
  void synchronizeEvent(void* event) const override {
    if (event) {
      check(rivulet_event_synchronize(as_event(event)));
    }
  }
  double elapsedTime(void* start, void* end, c10::DeviceIndex) const override {
    TORCH_CHECK(start && end, "Both events must be recorded before calculating elapsed time.");
    double milliseconds = 0;
    check(rivulet_event_elapsed(as_event(start), as_event(end), &milliseconds));
    return milliseconds;
  }

  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 12
  bool isStreamCapturing(const c10::Stream&) const override {
    return false;
  }
#endif
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    return c10::DeviceCapability();
  }
  bool queryStream(const c10::Stream& stream) const override {
    int32_t done = 0;
    check(rivulet_stream_query(as_id(stream), &done));
    return done;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    check(rivulet_stream_synchronize(as_id(stream)));
  }
  void synchronizeDevice(c10::DeviceIndex) const override {
    check(rivulet_synchronize());
  }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {
    // A hint that adds nothing: the runtime stamps every use.
  }
};

} // namespace

const c10::impl::DeviceGuardImplInterface& device_guard() {
  static auto* guard = new MpsGuard();
  return *guard;
}

} // namespace rivulet

#include "runtime/hooks.h"

#include <ATen/detail/MPSHooksInterface.h>
#include <torch/version.h>

#include "aten/takeover.h"
#include "runtime/allocator.h"
#include "runtime/generator.h"
#include "runtime/status.h"

namespace rivulet {

namespace {

bool accelerator = true;

rivulet_memory_stats memory() {
  rivulet_memory_stats m;
  check(rivulet_memory(&m));
  return m;
}

// torch.mps.Event speaks 32-bit ids; the runtime's handles start at 1 and are never reused, so they fit for the
// first 4 billion events and are refused after that instead of wrapping.
uint32_t as_id(uint64_t event) {
  TORCH_CHECK(event <= UINT32_MAX, "more than ", UINT32_MAX, " torch.mps.Event objects were created");
  return static_cast<uint32_t>(event);
}

class MPSHooks final : public at::MPSHooksInterface {
 public:
  MPSHooks() = default;
  // Up to 2.14 the registry passes an (empty) argument struct; in 2.15 none.
  explicit MPSHooks(at::MPSHooksArgs) {}

  void init() const override {}
  bool isBuilt() const override {
    return accelerator;
  }
  bool isAvailable() const override {
    return rivulet_is_available();
  }
  bool hasMPS() const override {
    return rivulet_is_available();
  }
  // Asked to guard Metal features by macOS version; kernels here depend on none.
  bool isOnMacOSorNewer(unsigned, unsigned) const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    check_index(index);
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    check_index(index);
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    check_index(index);
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    check_index(index);
    return new_generator();
  }
  at::Allocator* getMPSDeviceAllocator() const override {
    return &device_allocator();
  }
  bool isPinnedPtr(const void* data) const override {
    return is_pinned(data);
  }
  at::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned_allocator();
  }
  at::Device getDeviceFromPtr(void*) const override {
    return kDevice;
  }

  void deviceSynchronize() const override {
    check(rivulet_synchronize());
  }
  void commitStream() const override {
    // Recorded work is submitted by the runtime's own flush policy; a query submits what is left.
    uint32_t id = 0;
    int32_t done = 0;
    check(rivulet_stream_current(&id));
    check(rivulet_stream_query(id, &done));
  }
  void* getCommandBuffer() const override {
    TORCH_CHECK(false, "the mps device of rivulet ", rivulet_version(), " has no MTLCommandBuffer to hand out");
  }
  void* getDispatchQueue() const override {
    TORCH_CHECK(false, "the mps device of rivulet ", rivulet_version(), " has no dispatch queue to hand out");
  }

  void emptyCache() const override {
    check(rivulet_empty_cache());
  }
  size_t getCurrentAllocatedMemory() const override {
    return memory().allocated;
  }
  size_t getDriverAllocatedMemory() const override {
    return memory().driver;
  }
  size_t getRecommendedMaxMemory() const override {
    return memory().recommended_max;
  }
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
  size_t getMaxBufferLength() const override {
    return memory().recommended_max;
  }
#endif
  void setMemoryFraction(double fraction) const override {
    check(rivulet_set_memory_fraction(fraction));
  }
  void profilerStartTrace(const std::string&, bool) const override {
    TORCH_CHECK(false, "torch.mps.profiler traces to Apple's Instruments, which this adapter does not have");
  }
  void profilerStopTrace() const override {
    TORCH_CHECK(false, "torch.mps.profiler traces to Apple's Instruments, which this adapter does not have");
  }

  uint32_t acquireEvent(bool enable_timing) const override {
    uint64_t event = 0;
    check(rivulet_event_new(enable_timing, &event));
    return as_id(event);
  }
  void releaseEvent(uint32_t event) const override {
    rivulet_event_free(event);
  }
  void recordEvent(uint32_t event) const override {
    check(rivulet_event_record(event, RIVULET_NO_STREAM));
  }
  void waitForEvent(uint32_t event) const override {
    check(rivulet_event_wait(event, RIVULET_NO_STREAM));
  }
  void synchronizeEvent(uint32_t event) const override {
    check(rivulet_event_synchronize(event));
  }
  bool queryEvent(uint32_t event) const override {
    int32_t done = 0;
    int32_t recorded = 0;
    check(rivulet_event_query(event, &done, &recorded));
    return done;
  }
  double elapsedTimeOfEvents(uint32_t start, uint32_t end) const override {
    double milliseconds = 0;
    check(rivulet_event_elapsed(start, end, &milliseconds));
    return milliseconds;
  }

 private:
  static void check_index(c10::DeviceIndex index) {
    TORCH_CHECK(
        index <= 0, "invalid device ordinal: mps has 1 device (index 0), got index ", static_cast<int>(index));
  }
};

} // namespace

void set_is_accelerator(bool value) {
  accelerator = value;
}

bool is_accelerator() {
  return accelerator;
}

namespace {

// A registry ends the process over a key that is registered twice; this makes it throw instead.
class Throwing {
 public:
  Throwing() {
    at::MPSHooksRegistry()->SetTerminate(false);
  }
  ~Throwing() {
    at::MPSHooksRegistry()->SetTerminate(true);
  }
};

} // namespace

void register_hooks() {
  Throwing throwing;
  auto registry = at::MPSHooksRegistry();
  constexpr auto kName = "MPSHooks";
  bool present = registry->Has(kName);
  // Higher than PyTorch's own: an equal priority ends the process, whichever of the two comes second.
  constexpr auto kPriority = c10::REGISTRY_PREFERRED;
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 15
  registry->Register(kName, [] { return std::unique_ptr<at::MPSHooksInterface>(new MPSHooks()); }, kPriority);
#else
  registry->Register(
      kName,
      [](at::MPSHooksArgs args) { return std::unique_ptr<at::MPSHooksInterface>(new MPSHooks(args)); },
      kPriority);
#endif
  // PyTorch creates its hooks object once, at first use, keeps it, and does not tell whether it has one.
  TORCH_CHECK(
      dynamic_cast<const MPSHooks*>(&at::detail::getMPSHooks()) != nullptr,
      "mps was used before rivulet was loaded: PyTorch has already created its hooks",
      present ? " of another backend for mps" : "");
  if (present) {
    note_displaced({"hooks", kName, "", "", "the hooks of Rivulet", false});
  }
}

} // namespace rivulet

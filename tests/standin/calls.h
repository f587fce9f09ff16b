// Counts of what was called, by part, for the tests to read.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>

namespace standin {

struct Part {
  const char* name;
  std::atomic<uint64_t> calls{0};
  explicit Part(const char* name) : name(name) {}
};

inline std::string& members() {
  static auto* text = new std::string();
  return *text;
}

inline std::mutex& members_lock() {
  static auto* lock = new std::mutex();
  return *lock;
}

inline void called(Part& part, const char* member) {
  part.calls.fetch_add(1, std::memory_order_relaxed);
  std::lock_guard<std::mutex> lock(members_lock());
  auto line = std::string(part.name) + ":" + member + "\n";
  if (members().find(line) == std::string::npos) {
    members() += line;
  }
}

} // namespace standin

#define STANDIN_EXPORT extern "C" __attribute__((visibility("default")))

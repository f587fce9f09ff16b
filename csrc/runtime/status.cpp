#include "runtime/status.h"

#include <dlfcn.h>

#include <exception>
#include <string>

// Same name and layout as torch/csrc/Exceptions.h, which cannot be included because it needs Python's headers:
// PyTorch's bindings catch this type by its type_info name and call its restore(). The error itself is already
// set in the interpreter; it travels in the three pointers.
struct __attribute__((visibility("default"))) python_error : public std::exception {
  void* type = nullptr;
  void* value = nullptr;
  void* traceback = nullptr;
  std::string message;
  const char* what() const noexcept override {
    return message.c_str();
  }
};

namespace rivulet {

namespace {

// Moves the interpreter's pending exception into a python_error; false where there is no interpreter.
bool fetch_python_error(python_error& error) {
  using Ensure = int (*)();
  using Release = void (*)(int);
  using Fetch = void (*)(void**, void**, void**);
  auto ensure = reinterpret_cast<Ensure>(dlsym(RTLD_DEFAULT, "PyGILState_Ensure"));
  auto release = reinterpret_cast<Release>(dlsym(RTLD_DEFAULT, "PyGILState_Release"));
  auto fetch = reinterpret_cast<Fetch>(dlsym(RTLD_DEFAULT, "PyErr_Fetch"));
  if (!ensure || !release || !fetch) {
    return false;
  }
  int state = ensure();
  fetch(&error.type, &error.value, &error.traceback);
  release(state);
  return error.type != nullptr;
}

} // namespace

void raise_status(int32_t status) {
  const char* message = rivulet_last_error();
  switch (status) {
    case RIVULET_OUT_OF_MEMORY:
      TORCH_CHECK_WITH(OutOfMemoryError, false, message);
      break;
    case RIVULET_INTERRUPTED: {
      python_error error;
      if (fetch_python_error(error)) {
        throw error;
      }
      TORCH_CHECK(false, "interrupted while waiting for the mps device");
      break;
    }
    case RIVULET_INVALID:
      TORCH_CHECK_VALUE(false, message);
      break;
    default:
      break;
  }
  TORCH_CHECK(false, message);
}

} // namespace rivulet

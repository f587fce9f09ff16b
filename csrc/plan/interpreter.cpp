#include "plan/interpreter.h"

#include <dlfcn.h>

namespace rivulet::plan {

namespace {

template <typename T>
bool load(void* library, T& target, const char* name, const char** missing) {
  void* address = dlsym(library, name);
  if (address == nullptr) {
    *missing = name;
    return false;
  }
  target = reinterpret_cast<T>(address);
  return true;
}

bool load_python(Interpreter& python, const char** missing) {
#define RIVULET_LOAD(name) load(RTLD_DEFAULT, python.name, #name, missing)
  PyObject** type_error = nullptr;
  bool found = RIVULET_LOAD(PyCFunction_NewEx) && RIVULET_LOAD(PyType_FromSpec) && RIVULET_LOAD(PyCapsule_New) &&
      RIVULET_LOAD(PyCapsule_GetPointer) && RIVULET_LOAD(PyTuple_New) && RIVULET_LOAD(PyTuple_SetItem) &&
      RIVULET_LOAD(PyTuple_GetItem) && RIVULET_LOAD(PyTuple_Size) && RIVULET_LOAD(PyList_New) &&
      RIVULET_LOAD(PyList_SetItem) && RIVULET_LOAD(PyDict_GetItem) && RIVULET_LOAD(PyDict_Size) &&
      RIVULET_LOAD(PyObject_GetAttr) && RIVULET_LOAD(PyObject_Call) && RIVULET_LOAD(PyObject_CallFunctionObjArgs) &&
      RIVULET_LOAD(PyUnicode_InternFromString) && RIVULET_LOAD(PyUnicode_FromStringAndSize) &&
      RIVULET_LOAD(PyUnicode_AsUTF8AndSize) &&
      RIVULET_LOAD(PyBytes_AsStringAndSize) && RIVULET_LOAD(PyLong_FromLongLong) && RIVULET_LOAD(PyLong_AsLongLong) &&
      RIVULET_LOAD(PyErr_Occurred) && RIVULET_LOAD(PyErr_SetString) && RIVULET_LOAD(Py_IncRef) &&
      RIVULET_LOAD(Py_DecRef) && load(RTLD_DEFAULT, python.none, "_Py_NoneStruct", missing) &&
      load(RTLD_DEFAULT, type_error, "PyExc_TypeError", missing);
#undef RIVULET_LOAD
  python.type_error = type_error;
  return found;
}

bool load_torch(void* library, Interpreter& python, const char** missing) {
  void** tensor_type = nullptr;
  void** parameter_type = nullptr;
  bool found = load(library, python.wrap, "_Z16THPVariable_WrapON2at10TensorBaseE", missing) &&
      load(library, python.raise, "_ZN5torch29translate_exception_to_pythonERKNSt15__exception_ptr13exception_ptrE",
           missing) &&
      load(library, tensor_type, "THPVariableClass", missing) &&
      load(library, parameter_type, "ParameterClass", missing);
  if (found) {
    python.tensor_type = *tensor_type;
    python.parameter_type = *parameter_type;
  }
  return found;
}

Interpreter table;
bool loaded = false;
size_t tensor_offset = 0;

} // namespace

const Interpreter* load_interpreter(const char* torch_python, const char** missing) {
  if (loaded) {
    return &table;
  }
  // Loaded for Python's import alone, so that a search by name among everything does not find it.
  void* library = dlopen(torch_python, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    *missing = torch_python;
    return nullptr;
  }
  loaded = load_python(table, missing) && load_torch(library, table, missing);
  return loaded ? &table : nullptr;
}

const Interpreter& interpreter() {
  return table;
}

bool find_tensor_offset(PyObject* tensor, const void* implementation) {
  constexpr size_t kLast = sizeof(ObjectHead) + 2 * sizeof(void*);
  const auto* bytes = reinterpret_cast<const char*>(tensor);
  for (size_t offset = sizeof(ObjectHead); offset <= kLast; offset += sizeof(void*)) {
    if (*reinterpret_cast<const void* const*>(bytes + offset) == implementation) {
      tensor_offset = offset;
      return true;
    }
  }
  return false;
}

const at::Tensor& unwrap(PyObject* object) {
  return *reinterpret_cast<const at::Tensor*>(reinterpret_cast<const char*>(object) + tensor_offset);
}

} // namespace rivulet::plan

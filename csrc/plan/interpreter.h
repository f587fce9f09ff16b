// Python's C functions, found at run time: the library links to no Python, and one file serves every version. All of
// them are in the stable ABI since 3.10.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>

namespace rivulet::plan {

struct PyObject;


struct PyMethodDef {
  const char* name;
  void* call;
  int flags;
  const char* doc;
};

struct PyType_Slot {
  int slot;
  void* function;
};

struct PyType_Spec {
  const char* name;
  int basicsize;
  int itemsize;
  unsigned int flags;
  PyType_Slot* slots;
};

constexpr int METH_FASTCALL = 0x0080;
constexpr unsigned int Py_TPFLAGS_BASETYPE = 1u << 10;
constexpr int Py_tp_call = 50;

// What every object begins with where there is a GIL; part of the stable ABI.
struct ObjectHead {
  intptr_t references;
  void* type;
};

struct Interpreter {
  PyObject* (*PyCFunction_NewEx)(PyMethodDef*, PyObject*, PyObject*);
  PyObject* (*PyType_FromSpec)(PyType_Spec*);
  PyObject* (*PyCapsule_New)(void*, const char*, void (*)(PyObject*));
  void* (*PyCapsule_GetPointer)(PyObject*, const char*);
  PyObject* (*PyTuple_New)(intptr_t);
  int (*PyTuple_SetItem)(PyObject*, intptr_t, PyObject*);
  PyObject* (*PyTuple_GetItem)(PyObject*, intptr_t);
  intptr_t (*PyTuple_Size)(PyObject*);
  PyObject* (*PyList_New)(intptr_t);
  int (*PyList_SetItem)(PyObject*, intptr_t, PyObject*);
  PyObject* (*PyDict_GetItem)(PyObject*, PyObject*);
  intptr_t (*PyDict_Size)(PyObject*);
  PyObject* (*PyObject_GetAttr)(PyObject*, PyObject*);
  PyObject* (*PyObject_Call)(PyObject*, PyObject*, PyObject*);
  PyObject* (*PyObject_CallFunctionObjArgs)(PyObject*, ...);
  PyObject* (*PyUnicode_InternFromString)(const char*);
  PyObject* (*PyUnicode_FromStringAndSize)(const char*, intptr_t);
  const char* (*PyUnicode_AsUTF8AndSize)(PyObject*, intptr_t*);
  int (*PyBytes_AsStringAndSize)(PyObject*, char**, intptr_t*);
  PyObject* (*PyLong_FromLongLong)(long long);
  long long (*PyLong_AsLongLong)(PyObject*);
  PyObject* (*PyErr_Occurred)();
  void (*PyErr_SetString)(PyObject*, const char*);
  void (*Py_IncRef)(PyObject*);
  void (*Py_DecRef)(PyObject*);
  PyObject* none;
  PyObject** type_error;
  // Of PyTorch's own bindings.
  PyObject* (*wrap)(at::TensorBase&&);
  void (*raise)(const std::exception_ptr&);
  void* tensor_type;
  void* parameter_type;
};

// Finds everything. Null, and `missing` says what was not found, where this process has no Python or another PyTorch
// than expected. torch_python: path of the library with PyTorch's bindings, which is loaded. GIL held.
const Interpreter* load_interpreter(const char* torch_python, const char** missing);
// What was found.
const Interpreter& interpreter();

// A tensor or parameter itself, no subclass of the user's.
inline bool is_tensor(const Interpreter& python, PyObject* object) {
  const void* type = reinterpret_cast<ObjectHead*>(object)->type;
  return type == python.tensor_type || type == python.parameter_type;
}

// Where a Python tensor keeps its C++ tensor differs between versions of PyTorch: it is found by looking at one whose
// implementation is known.
bool find_tensor_offset(PyObject* tensor, const void* implementation);
const at::Tensor& unwrap(PyObject* object);

} // namespace rivulet::plan

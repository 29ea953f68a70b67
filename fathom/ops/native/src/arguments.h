// What the operators' methods share: reading and checking their arguments, making results, letting other threads run.
#pragma once
#include <Python.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/python_variable.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "table.h"

namespace {

using at::Tensor;
using fathom::Pages;
using fathom::Run;
using fathom::Table;
using fathom::Weight;

struct Object {
    PyObject_HEAD
    const Table* table;
};

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void require(bool fine, const char* what) {
    if (!fine) throw std::invalid_argument(what);
}

const Tensor& any_tensor(PyObject* o) {
    require(THPVariable_Check(o), "not a tensor");
    const Tensor& t = THPVariable_Unpack(o);
    require(t.is_cpu() && t.is_contiguous(), "not a contiguous tensor in main memory");
    return t;
}

const Tensor& tensor(PyObject* o, at::ScalarType type) {
    const Tensor& t = any_tensor(o);
    require(t.scalar_type() == type, "a tensor of another type than the kernel takes");
    return t;
}

const uint16_t* bf16(PyObject* o) { return (const uint16_t*)tensor(o, at::kBFloat16).const_data_ptr(); }
const float* fp32(PyObject* o) { return (const float*)tensor(o, at::kFloat).const_data_ptr(); }
const int64_t* int64(PyObject* o) { return o == Py_None ? nullptr : (const int64_t*)tensor(o, at::kLong).const_data_ptr(); }

int64_t number(PyObject* o) {
    int64_t n = PyLong_AsLongLong(o);
    if (n == -1 && PyErr_Occurred()) throw std::invalid_argument("not a whole number");
    return n;
}

double real(PyObject* o) {
    double x = PyFloat_AsDouble(o);
    if (x == -1 && PyErr_Occurred()) throw std::invalid_argument("not a number");
    return x;
}

Tensor make(at::IntArrayRef shape, at::ScalarType type) { return at::empty(shape, at::TensorOptions().dtype(type)); }

struct Unlocked {  // lets other threads run Python while a long call computes
    PyThreadState* state;
    explicit Unlocked(int64_t work) : state(work > (1 << 24) ? PyEval_SaveThread() : nullptr) {}
    void end() {
        if (state) PyEval_RestoreThread(state);
        state = nullptr;
    }
    ~Unlocked() { end(); }
};

int64_t bits(fathom::Format format) { return format == fathom::BF16 ? 16 : format == fathom::FP8 ? 8 : 4; }

// A matrix as a tuple: data, scale (or None), rows, columns, format. With groups, data and scale are [groups, …]: that many matrices
// of this size (chains.h, Groups).
Weight weight(PyObject* o, int64_t groups = 1) {
    require(PyTuple_Check(o) && PyTuple_GET_SIZE(o) == 5, "a matrix is data, scale, rows, columns, format");
    PyObject* const* a = &PyTuple_GET_ITEM(o, 0);
    const Tensor& data = any_tensor(a[0]);
    Weight w{data.const_data_ptr(), nullptr, number(a[2]), number(a[3]), (fathom::Format)number(a[4])};
    if (a[1] != Py_None) w.scale = (const uint8_t*)tensor(a[1], at::kByte).const_data_ptr();
    int64_t values = (w.rows + 15) / 16 * 16 * ((w.columns + 31) / 32 * 32);
    require(groups == 1 || data.size(0) == groups, "as many matrices as there are groups");
    require(data.nbytes() * 8 >= (size_t)(groups * values * bits(w.format)), "a packed matrix smaller than its rows and columns");
    require((w.format == fathom::BF16) == (w.scale == nullptr), "a quantised matrix has scales, a plain one has none");
    return w;
}

const Run* runs(PyObject* o, int64_t& count) {
    const Tensor& t = tensor(o, at::kLong);
    require(t.dim() == 2 && t.size(1) == 4, "runs are [R, 4]");
    count = t.size(0);
    return (const Run*)t.const_data_ptr();
}

// Pages as three arguments: table [R, width] int32 or None, base [R] int64 or None, entries a block.
Pages pages(PyObject* const* a, int64_t R) {
    Pages p{nullptr, int64(a[1]), 0, number(a[2])};
    require(p.base || a[0] != Py_None, "neither a table nor a base");
    if (a[0] != Py_None) {
        const Tensor& t = tensor(a[0], at::kInt);
        require(t.dim() == 2 && t.size(0) == R, "a block table is [R, width]");
        p.table = (const int32_t*)t.const_data_ptr(), p.width = t.size(1);
    }
    return p;
}

#define FATHOM_METHOD(name, count)                                                                        \
    PyObject* name##_(const Table& k, PyObject* const* a);                                               \
    PyObject* name(PyObject* self, PyObject* const* a, Py_ssize_t n) {                                    \
        try {                                                                                             \
            require(n == count, #name " takes " #count " arguments");                                     \
            return name##_(*((Object*)self)->table, a);                                                   \
        } catch (const std::exception& e) {                                                               \
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, (std::string(#name ": ") + e.what()).c_str()); \
            return nullptr;                                                                               \
        }                                                                                                 \
    }                                                                                                     \
    PyObject* name##_(const Table& k, PyObject* const* a)

}  // namespace

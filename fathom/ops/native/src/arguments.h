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
using fathom::Product;
using fathom::Reading;
using fathom::Run;
using fathom::Table;
using fathom::Weight;

struct Object {
    PyObject_HEAD
    const Table* table;
};

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

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
// of this size (Groups).
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

uint16_t* out16(const Tensor& t) { return (uint16_t*)t.data_ptr(); }
const uint16_t* in16(const Tensor& t) { return (const uint16_t*)t.const_data_ptr(); }

PyObject* three(const Tensor& a, const Tensor& b, const Tensor& c) {
    PyObject* all = PyTuple_New(3);
    PyTuple_SET_ITEM(all, 0, THPVariable_Wrap(a));
    PyTuple_SET_ITEM(all, 1, THPVariable_Wrap(b));
    PyTuple_SET_ITEM(all, 2, THPVariable_Wrap(c));
    return all;
}

// Matrices of one size, as a tuple whose data and scale are [G, …].
struct Groups {
    Weight first;
    int64_t count, data_bytes, scale_bytes;
    explicit Groups(PyObject* o) : count(0), data_bytes(0), scale_bytes(0) {
        require(PyTuple_Check(o) && PyTuple_GET_SIZE(o) == 5, "matrices are data, scale, rows, columns, format");
        const Tensor& data = any_tensor(PyTuple_GET_ITEM(o, 0));
        count = data.size(0);
        first = weight(o, count);
        data_bytes = data.nbytes() / count;
        if (first.scale) scale_bytes = any_tensor(PyTuple_GET_ITEM(o, 1)).nbytes() / count;
    }
    Weight operator[](int64_t g) const {
        return {(const uint8_t*)first.data + g * data_bytes, first.scale ? first.scale + g * scale_bytes : nullptr, first.rows, first.columns, first.format};
    }
    // y [T, G·rows] of x [T, G, columns]
    std::vector<Product> products(const uint16_t* x, uint16_t* y) const {
        std::vector<Product> all;
        for (int64_t g = 0; g < count; g++) all.push_back({x + g * first.columns, count * first.columns, (*this)[g], y + g * first.rows, count * first.rows, false});
        return all;
    }
};

// All experts of a layer: their addresses [E + 1, 4] int64 (gate_up data, scale, down data, scale; the shared expert last), width I,
// formats of the routed and of the shared ones. Those with active[e] = 0 may be missing.
struct Experts {
    int64_t count, width;
    std::vector<Weight> up, down;
    Experts(PyObject* const* a, int64_t D, const uint8_t* active) {
        const Tensor& pointers = tensor(a[0], at::kLong);
        require(pointers.dim() == 2 && pointers.size(1) == 4, "pointers are [E + 1, 4]");
        const int64_t* at_ = (const int64_t*)pointers.const_data_ptr();
        count = pointers.size(0) - 1, width = number(a[1]);
        fathom::Format routed = (fathom::Format)number(a[2]), shared = (fathom::Format)number(a[3]);
        up.resize(count + 1), down.resize(count + 1);
        for (int64_t e = 0; e <= count; e++, at_ += 4) {
            require((active && !active[e]) || (at_[0] && at_[2]), "an active expert without weights");
            fathom::Format format = e == count ? shared : routed;
            up[e] = {(const void*)at_[0], (const uint8_t*)at_[1], 2 * ((width + 15) / 16 * 16), D, format};
            down[e] = {(const void*)at_[2], (const uint8_t*)at_[3], D, width, format};
        }
    }
};

const int64_t* experts_that_exist(const Tensor& chosen, int64_t E) {
    const int64_t* list = (const int64_t*)chosen.const_data_ptr();
    for (int64_t i = 0; i < chosen.numel(); i++) require(list[i] >= 0 && list[i] < E, "an expert that doesn't exist");
    return list;
}

// cos and sin [T, R/2] of a rotation.
struct Angles {
    const float *cos, *sin;
    int64_t R;
    Angles(PyObject* c, PyObject* s, int64_t T, int64_t C) {
        const Tensor &cosines = tensor(c, at::kFloat), &sines = tensor(s, at::kFloat);
        require(cosines.dim() == 2 && cosines.size(0) == T && 2 * cosines.size(1) <= C && sines.numel() == cosines.numel(), "cos and sin are [T, R/2]");
        cos = (const float*)cosines.const_data_ptr(), sin = (const float*)sines.const_data_ptr(), R = 2 * cosines.size(1);
    }
};

const uint16_t* norm_weight(PyObject* o, int64_t columns) {
    require(tensor(o, at::kBFloat16).numel() == columns, "one weight a column");
    return bf16(o);
}

// Bytes of a row of precision `official`: an entry, an index key.
int64_t entry_bytes(int64_t C, int64_t R) { return (C - R + 2 * R + (C - R + 63) / 64 + 7) / 8 * 8; }
int64_t key_bytes(int64_t C) { return C / 2 + (C + 31) / 32; }

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

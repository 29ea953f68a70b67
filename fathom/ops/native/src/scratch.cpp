#include "scratch.h"

#include <cstdio>
#include <cstdlib>

namespace {
struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { free(data); }
};
thread_local Buffer buffers[FATHOM_SLOTS];
}  // namespace

extern "C" void* fathom_scratch(FathomSlot slot, size_t bytes) {
    Buffer& buffer = buffers[slot];
    if (bytes > buffer.size) {
        free(buffer.data);
        buffer.size = (bytes + 4095) / 4096 * 4096;
        buffer.data = aligned_alloc(4096, buffer.size);
        if (!buffer.data) {
            fprintf(stderr, "fathom: out of memory: a kernel needs %zu bytes\n", buffer.size);
            abort();
        }
    }
    return buffer.data;
}

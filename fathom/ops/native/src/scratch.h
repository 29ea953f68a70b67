// Working memory of a thread, in a few independent slots: each grows to its largest request and stays. What is in a slot doesn't
// survive the slot's next request.
#pragma once
#include <cstddef>

enum FathomSlot { THREAD, CALL, CALL_TOO, FATHOM_SLOTS };  // of one worker; of the whole call, asked for by the thread that makes it

extern "C" void* fathom_scratch(FathomSlot slot, size_t bytes);  // aligned to a page; aborts the process when memory is exhausted

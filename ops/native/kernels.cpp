// What Python calls.
#include "cell.h"
#include "entrance.h"

extern "C" {
void cell_forward(const int32_t* program, const int64_t* listed, const int64_t* call) {
    Forward<VALUE>(program, listed, call).run();
}
void cell_backward(const int32_t* program, const int64_t* listed, const int64_t* call) {
    Backward<VALUE>(program, listed, call).run();
}
void entrances_forward(const int64_t* calls) { enter<VALUE>(calls); }
void entrances_backward(const int64_t* calls) { enter_back<VALUE>(calls); }
}

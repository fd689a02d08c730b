#pragma once

#include <string>

#ifdef __cplusplus
extern "C" {
#endif
int answer(void);  // in C
#ifdef __cplusplus
}
#endif

// Throws std::invalid_argument when `name` is empty.
std::string Greeting(const std::string& name);

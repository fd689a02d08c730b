#include "tests/cc/greeting.h"

#include <stdexcept>

std::string Greeting(const std::string& name) {
  if (name.empty()) throw std::invalid_argument("no name");
  return "hello, " + name;
}

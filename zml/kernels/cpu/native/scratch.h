// Memory that kernels work in, kept from call to call: fresh pages cost more than what is done with them.
#pragma once

#include <cstddef>

namespace zml::cpu {

// A block of memory, aligned to a page, for as long as this lives. Blocks that are given back are kept and lent again, so that
// there are as many as have ever been in use at once, each as large as the largest that was asked of it.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The next `count` elements of it, aligned to a cache line. What is taken must not exceed what was asked for, for which
  // Bytes says what each costs.
  template <typename T>
  T* Take(size_t count) {
    char* taken = next_;
    next_ += Bytes<T>(count);
    return reinterpret_cast<T*>(taken);
  }
  template <typename T>
  static size_t Bytes(size_t count) {
    return (count * sizeof(T) + 63) / 64 * 64;
  }

 private:
  char* data_;
  char* next_;
  size_t size_;
};

}  // namespace zml::cpu

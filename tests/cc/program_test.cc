// A program that leans on the whole runtime: C++17's library, exceptions, threads and thread-local
// storage, C, a shared library.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <variant>
#include <vector>

#include "tests/cc/greeting.h"

namespace {

void Expect(bool condition, std::string_view what) {
  if (condition) return;
  std::cerr << "failed: " << what << "\n";
  std::exit(1);
}

thread_local int counter = 0;

int CountInThreads() {
  std::atomic<int> total{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&total] {
      for (int j = 0; j < 1000; ++j) ++counter;
      total += counter;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return total;
}

std::optional<std::string> MessageOf(void (*function)()) {
  try {
    function();
  } catch (const std::exception& error) {
    return error.what();
  }
  return std::nullopt;
}

std::string WriteAndRead() {
  const std::filesystem::path path = std::filesystem::path(std::getenv("TEST_TMPDIR")) / "text";
  std::ofstream(path) << "one\ntwo\n";
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

}  // namespace

int main() {
  Expect(answer() == 42, "a C function with libm");
  Expect(Greeting("zml") == "hello, zml", "a call into a shared library");
  Expect(CountInThreads() == 4000, "threads and thread-local storage");
  Expect(MessageOf([] { throw std::runtime_error("thrown"); }) == "thrown", "an exception");
  Expect(MessageOf([] { (void)std::vector<int>().at(1); }).has_value(), "an exception of libc++'s own");
  Expect(WriteAndRead() == "one\ntwo\n", "streams and files");
  Expect(std::get<double>(std::variant<int, double>(0.5)) == 0.5, "a variant");
  Expect(std::string_view(__DATE__) == "redacted", "a build without a date");
}

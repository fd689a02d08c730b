// Does the one thing wrong that its argument names, for the test of the sanitizers.

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <vector>

namespace {

volatile int ten = 10;  // The compiler must not see through the faults.
int shared = 0;

int HeapOverflow() {
  std::vector<int> values(ten);
  return values.data()[ten];
}

int UseAfterFree() {
  int* values = new int[ten]();
  delete[] values;
  return values[ten / 2];
}

int StackOverflow() {
  int values[10] = {};
  int* volatile first = values;  // Through an array, the undefined behaviour sanitizer would see it first.
  return first[ten];
}

int Leak() {
  int* volatile values = new int[ten]();
  const int first = values[0];
  values = nullptr;
  return first;
}

int DataRace() {
  const auto count = [] {
    for (int i = 0; i < 1000; ++i) shared = shared + 1;
  };
  std::thread first(count), second(count);
  first.join();
  second.join();
  return shared;
}

int SignedOverflow() {
  int value = INT_MAX;
  value += ten;
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view fault = argc == 2 ? argv[1] : "";
  int result = 0;
  if (fault == "heap-overflow") result = HeapOverflow();
  else if (fault == "use-after-free") result = UseAfterFree();
  else if (fault == "stack-overflow") result = StackOverflow();
  else if (fault == "leak") result = Leak();
  else if (fault == "data-race") result = DataRace();
  else if (fault == "signed-overflow") result = SignedOverflow();
  else if (fault != "none") return EXIT_FAILURE;
  std::printf("not noticed: %d\n", result);
}

// growth MODEL COUNT: how much more memory a process has after COUNT pictures than after 20, and its peak.
#include HEADER

#include <fstream>
#include <iostream>
#include <string>

namespace {

long kib(const std::string& wanted) {
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name; status.ignore(1000, '\n'))
    if (long value = 0; name == wanted && status >> value) return value;
  return -1;
}

}  // namespace

int main(int, char** arguments) {
  cmkit::Options options;
  options.threads = 1;
  KIT::Generator generator(arguments[1], options);
  const auto draw = [&](int count) {
    for (int seed = 0; seed < count; ++seed)
      generator.generate(static_cast<KIT::Label>(seed % 10), static_cast<std::uint64_t>(seed));
  };
  draw(20);
  const long before = kib("VmRSS:");
  draw(std::stoi(arguments[2]));
  std::cout << "grown by " << kib("VmRSS:") - before << " KiB, peak " << kib("VmHWM:") << " KiB\n";
}

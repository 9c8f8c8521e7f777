// tokens FOLDER BEGIN END PAD UNKNOWN LENGTH: for each line of hexadecimal bytes the numbers of that text, a line each.
#include <iostream>
#include <string>

#include "cmkit/tokenizer.hpp"

int main(int, char** arguments) {
  const auto number = [&](int at) { return std::stoll(arguments[at]); };
  const cmkit::TokenizerFacts facts{number(2), number(3), number(4), number(5), static_cast<std::size_t>(number(6))};
  const cmkit::Tokenizer tokenizer(arguments[1], facts);
  for (std::string line; std::getline(std::cin, line);) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); i += 2)
      text += static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16));
    for (const std::int64_t id : tokenizer.encode(text)) std::cout << id << ' ';
    std::cout << std::endl;
  }
}

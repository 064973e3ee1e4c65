// Ask an exported model for a class and its evidence in C++, with ONNX Runtime alone; see docs/serving.md.
//
//     onnx-evidence export MODEL.onnx -o explained.onnx --preprocess inside
//     g++ -std=c++17 -O2 explain.cc -I/usr/include/onnxruntime -lonnxruntime -o explain
//     ./explain explained.onnx photo.ppm [evidence.f32]
//
// The picture is a binary PPM of 8 bits. The map of the first target goes into the last file, as raw float32 in bits
// per pixel of the picture, row by row.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> pixels;  // red, green, blue; row by row
};

// The next number of a PPM's head, behind comments; 0 where there is none.
int64_t number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  int64_t found = 0;
  return file >> found ? found : 0;
}

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  file >> kind;
  Picture found;
  found.width = number(file);
  found.height = number(file);
  if (kind != "P6" || number(file) != 255 || std::min(found.width, found.height) < 1)
    throw std::runtime_error(path + ": no binary PPM of 8 bits");
  if (std::max(found.width, found.height) > 1 << 14) throw std::runtime_error(path + ": more than 16384 pixels a side");
  file.get();  // one blank, then the pixels
  found.pixels.resize(static_cast<size_t>(found.width * found.height * 3));
  if (!file.read(reinterpret_cast<char*>(found.pixels.data()), static_cast<std::streamsize>(found.pixels.size())))
    throw std::runtime_error(path + ": it ends before its last pixel");
  return found;
}

void explain(const char* model, Picture picture, const char* out) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "explain");
  Ort::Session session(env, model, Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  const std::string logits = session.GetOutputNameAllocated(0, allocator).get();  // the model's own come first
  const char* inputs[] = {"picture"};
  const char* outputs[] = {logits.c_str(), "budget", "evidence_in_picture"};
  const int64_t shape[] = {1, picture.height, picture.width, 3};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto tensor =
      Ort::Value::CreateTensor<uint8_t>(memory, picture.pixels.data(), picture.pixels.size(), shape, std::size(shape));
  const auto start = std::chrono::steady_clock::now();
  auto found = session.Run(Ort::RunOptions{}, inputs, &tensor, 1, outputs, std::size(outputs));
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;

  const float* scores = found[0].GetTensorData<float>();
  const auto classes = found[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const float* budget = found[1].GetTensorData<float>();
  const float* bits = found[2].GetTensorData<float>();
  const auto strongest = std::max_element(bits, bits + picture.height * picture.width) - bits;
  std::printf("class %td\n", std::max_element(scores, scores + classes) - scores);
  std::printf("bits with everything %+.4f, without %+.4f\n", budget[0], budget[1]);
  std::printf("for %+.4f, against %+.4f, unaccounted %.4f\n", budget[2], budget[3], budget[4]);
  std::printf("strongest at row %lld, column %lld\n", static_cast<long long>(strongest / picture.width),
              static_cast<long long>(strongest % picture.width));
  std::printf("%.0f ms\n", spent.count());
  if (out == nullptr) return;
  std::ofstream file(out, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bits), picture.height * picture.width * static_cast<int64_t>(sizeof(float)));
  if (!file.flush()) throw std::runtime_error(std::string(out) + ": cannot be written");
}

int main(int count, char** words) try {
  if (count < 3) throw std::runtime_error("usage: explain MODEL.onnx PICTURE.ppm [EVIDENCE.f32]");
  explain(words[1], read_ppm(words[2]), count > 3 ? words[3] : nullptr);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}

// Logits of llama.cpp for prompts of text and pictures, exactly: float32 cache, no flash attention,
// no repacked weights. Built by llama_cpp.py against the libraries of llama.cpp.
//
//   llama_cpp_logits MODEL MMPROJ|- REQUESTS OUT
//
// REQUESTS is text, one word a line where not said:
//   prompt BYTES      then as many bytes of text (markers <__media__> where pictures go), a newline
//   picture W H FILE  raw RGB bytes
//   run SPECIAL N M   SPECIAL 1: begin as the model's vocabulary says. Then N ids in the next line,
//                     which are fed after the prompt, and after them M tokens, greedily.
// OUT, for every run, in native int32 and float32: length of the prompt, number of its text ids and
// these ids, number of rows, size of the vocabulary, the rows of logits. Row 0 is that of the
// prompt's last token, each other that of one token fed.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "llama.h"
#include "mtmd-helper.h"
#include "mtmd.h"

static void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::fputs(text, stderr);
    }
}

[[noreturn]] static void fail(const std::string & what) {
    std::cerr << "llama_cpp_logits: " << what << "\n";
    std::exit(1);
}

static std::vector<unsigned char> bytes_of(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

static void put(std::ostream & out, int32_t value) {
    out.write(reinterpret_cast<const char *>(&value), sizeof value);
}

int main(int argc, char ** argv) {
    if (argc != 5) fail("expected MODEL MMPROJ REQUESTS OUT");
    llama_log_set(quiet, nullptr);
    mtmd_helper_log_set(quiet, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.use_extra_bufts = false;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) fail("llama.cpp does not load the model");
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int32_t size = llama_vocab_n_tokens(vocab);

    llama_context_params params = llama_context_default_params();
    params.n_ctx = 4096;
    params.n_batch = 4096;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) fail("llama.cpp makes no context");

    mtmd_context * media = nullptr;
    if (std::string(argv[2]) != "-") {
        mtmd_context_params media_params = mtmd_context_params_default();
        media_params.use_gpu = false;
        media_params.print_timings = false;
        media_params.n_threads = 1;
        media_params.warmup = false;
        media_params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        media = mtmd_init_from_file(argv[2], model, media_params);
        if (!media) fail("llama.cpp does not load the mmproj file");
    }

    std::ifstream requests(argv[3], std::ios::binary);
    std::ofstream out(argv[4], std::ios::binary);
    std::string word, prompt;
    std::vector<mtmd_bitmap *> pictures;
    while (requests >> word) {
        if (word == "prompt") {
            size_t length;
            requests >> length;
            requests.get();
            prompt.resize(length);
            requests.read(prompt.data(), length);
        } else if (word == "picture") {
            uint32_t width, height;
            std::string path;
            requests >> width >> height >> path;
            std::vector<unsigned char> data = bytes_of(path);
            if (data.size() != size_t(3) * width * height) fail(path + " has another size");
            pictures.push_back(mtmd_bitmap_init(width, height, data.data()));
        } else if (word == "run") {
            int special, fed, greedy;
            requests >> special >> fed >> greedy;
            std::vector<llama_token> tokens(fed);
            for (llama_token & token : tokens) requests >> token;
            llama_memory_clear(llama_get_memory(context), true);

            llama_pos place = 0;
            std::vector<llama_token> ids;
            if (pictures.empty()) {
                ids.resize(prompt.size() + 8);
                const int count = llama_tokenize(
                    vocab, prompt.data(), prompt.size(), ids.data(), ids.size(), special, true);
                if (count < 1) fail("no tokens");
                ids.resize(count);
                if (greedy >= 0 &&
                    llama_decode(context, llama_batch_get_one(ids.data(), count))) fail("decode");
                place = count;
            } else {
                const mtmd_input_text text{prompt.c_str(), prompt.size(), special != 0, true};
                mtmd_input_chunks * chunks = mtmd_input_chunks_init();
                if (mtmd_tokenize(media, chunks, &text,
                        const_cast<const mtmd_bitmap **>(pictures.data()), pictures.size()))
                    fail("the prompt cannot be cut");
                for (size_t i = 0; i < mtmd_input_chunks_size(chunks); i++) {
                    size_t count = 0;
                    const mtmd_input_chunk * chunk = mtmd_input_chunks_get(chunks, i);
                    const llama_token * found = mtmd_input_chunk_get_tokens_text(chunk, &count);
                    if (found) {
                        ids.insert(ids.end(), found, found + count);
                    } else {
                        ids.insert(ids.end(), mtmd_input_chunk_get_n_tokens(chunk), -1);
                    }
                }
                if (mtmd_helper_eval_chunks(media, context, chunks, 0, 0, params.n_batch, true, &place))
                    fail("a picture cannot be read");
                mtmd_input_chunks_free(chunks);
            }
            const int rows = greedy < 0 ? 0 : 1 + fed + greedy;
            put(out, place);
            put(out, ids.size());
            for (llama_token id : ids) put(out, id);
            put(out, rows);
            put(out, size);
            for (int row = 0; row < rows; row++) {
                const float * logits = llama_get_logits_ith(context, -1);
                out.write(reinterpret_cast<const char *>(logits), sizeof(float) * size);
                if (row + 1 == rows) break;
                llama_token next = row < fed
                    ? tokens[row]
                    : llama_token(std::max_element(logits, logits + size) - logits);
                if (llama_decode(context, llama_batch_get_one(&next, 1))) fail("decode");
            }
            for (mtmd_bitmap * bitmap : pictures) mtmd_bitmap_free(bitmap);
            pictures.clear();
        } else {
            fail("unknown word " + word);
        }
    }
    if (media) mtmd_free(media);
    llama_free(context);
    llama_model_free(model);
    return 0;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "log.hpp"

#include <cstdarg>
#include <cstdio>

namespace jal_ggml {

void say(ggml_log_level level, const char *format, ...) noexcept {
    char text[1024];
    char line[1100];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    std::snprintf(line, sizeof line, "jalapeno: %s\n", text);
    ggml_log_callback callback = nullptr;
    void *user = nullptr;
    ggml_log_get(&callback, &user);
    if (callback != nullptr)
        callback(level, line, user);
    else
        std::fputs(line, stderr);
}

void say_failure(const char *what, jal_status status) noexcept {
    const char *hint = jal_error_hint();
    say(GGML_LOG_LEVEL_ERROR, "%s: %s: %s%s%s", what, jal_status_string(status), jal_error_detail(),
        *hint != '\0' ? "; " : "", hint);
}

} // namespace jal_ggml

/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Lines to ggml's log, which is where a program that uses ggml looks. */
#ifndef JAL_GGML_LOG_HPP
#define JAL_GGML_LOG_HPP

#include <ggml.h>

#include <jalapeno.h>

namespace jal_ggml {

/* One line, "jalapeno: " before it. */
__attribute__((format(printf, 2, 3))) void say(ggml_log_level level, const char *format, ...) noexcept;

/* Says what failed, and libjalapeno's detail and hint. */
void say_failure(const char *what, jal_status status) noexcept;

} // namespace jal_ggml

#endif

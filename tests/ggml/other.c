/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Another version of ggml, as far as the plug-in can see: preloaded, it answers before ggml does. */
const char *ggml_version(void);

const char *ggml_version(void) { return "0.28.0"; }

/* Entry points of the C++ adaptor. Rust exports them under the names of rivulet.h's last section. */
#ifndef RIVULET_ADAPTOR_H
#define RIVULET_ADAPTOR_H
#include "rivulet.h"
#ifdef __cplusplus
extern "C" {
#endif

int32_t rivulet_adaptor_register(int32_t accelerator);
int32_t rivulet_adaptor_look_again(const char *op);
int32_t rivulet_adaptor_make_room(const char *op);
typedef void (*rivulet_displaced_visitor)(void *context, const char *part, const char *name, const char *key,
                                          const char *from, const char *now, int32_t later);
int32_t rivulet_adaptor_displaced(rivulet_displaced_visitor each, void *context);
const char *rivulet_adaptor_last_error(void);
const char *rivulet_adaptor_built_for(void);
void *rivulet_adaptor_plan_surface(const char *torch_python, const char **missing);

#ifdef __cplusplus
}
#endif
#endif

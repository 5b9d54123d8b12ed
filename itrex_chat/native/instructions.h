// The instructions that the functions of a file may use, whatever the build's own are.
#pragma once
#if defined(__clang__)
#define STRING_(x) #x
#define INSTRUCTIONS(set) _Pragma(STRING_(clang attribute push(__attribute__((target(set))), apply_to = function)))
#define INSTRUCTIONS_END _Pragma("clang attribute pop")
#else
#define STRING_(x) #x
#define INSTRUCTIONS(set) _Pragma("GCC push_options") _Pragma(STRING_(GCC target set))
#define INSTRUCTIONS_END _Pragma("GCC pop_options")
#endif

// A 32-bit program without a C library: waits for ever.
// cc: -m32 -nostdlib -static
void _start(void) {
  for (;;) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(29));  // pause
  }
}

#include <math.h>

int answer(void);
int answer(void) { return (int)lround(sqrt(1764.0)); }

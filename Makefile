# The words people try first. Each target is thin; the work stands in cargo and in scripts.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=
CARGO ?= cargo
OUT := target/dist

.PHONY: all lib ggml demo test test-kernel test-ggml check bench install uninstall clean

all: lib                ## library, tool and emulator into target/dist
	$(CARGO) build --release --locked -p jalctl -p jalapeno-emulator

lib:                    ## libjalapeno.so, libjalapeno.a, jalapeno.pc, CMake package
	libjalapeno/capi/link $(OUT)

ggml: lib               ## libggml-jalapeno.so, for Debian's llama.cpp [GGML_ROOT=]
	$(MAKE) -C integrations/ggml

demo: all               ## a C program decodes text on an emulated card
	libjalapeno/examples/demo $(OUT)

test:                   ## every test that can run here; the last line counts them
	tests/run

test-kernel:            ## the same stories on real kernels in QEMU [LEG=6.12]
	tests/kernel/test-kernel $(LEG)

test-ggml: all          ## llama.cpp as Debian builds it decodes on an emulated card [GATE=ops]
	tests/ggml/test-ggml $(GATE)

check:                  ## formatting, lints, floors, headers, documents
	tests/check

bench:                  ## figures against peers of the same run; target/bench.json
	tests/bench/run

# Under sudo there is often no cargo: then what `make all` left is installed.
install: $(if $(shell command -v $(CARGO) 2>/dev/null),all) ## [DESTDIR=] [PREFIX=]
	packaging/install "$(OUT)" "$(DESTDIR)" "$(PREFIX)" "$(LIBDIR)"

uninstall:
	packaging/install --remove "$(OUT)" "$(DESTDIR)" "$(PREFIX)" "$(LIBDIR)"

clean:
	$(CARGO) clean

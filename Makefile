# The commands of this package; every one sets the machine up first, which takes a second once that is done.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)

.PHONY: setup test demo bench libero clean
.NOTPARALLEL:

setup:
	@test -n "$(PYTHON)" || { echo "setup: needs Python 3.11, 3.12 or 3.13, found $$(python3 --version 2>&1). Install one, or name it: make setup PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) tools/set_up.py

test: setup
	.venv/bin/python -m pytest $(ARGS)

demo: setup
	.venv/bin/python tools/demo.py $(ARGS)

bench: setup
	.venv/bin/actdistill bench images --json out/bench_images.json
	.venv/bin/actdistill bench depth --checkpoint models/tabletop-student --threads 1 --json out/bench_depth.json
	.venv/bin/actdistill bench driver --checkpoint models/tabletop-teacher --commands 2000 --json out/bench_driver.json

# LIBERO and its simulator in .venv-libero, for `actdistill eval --suite libero_spatial`; 2.1 GB, so no part of setup.
libero: setup
	@$(PYTHON) tools/set_up_libero.py

clean:
	rm -rf build install log .venv .venv-libero

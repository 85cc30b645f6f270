.PHONY: setup demo test

setup:
	@tools/setup

demo: setup
	@.venv/bin/cbtfs demo

test: setup
	@tools/check

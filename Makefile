.PHONY: setup test-setup demo test bench

setup:
	@tools/setup

test-setup:
	@tools/setup tests

demo: setup
	@.venv/bin/cbtfs demo --vsphere

test: test-setup
	@tools/check

# QUICK=1 takes three minutes. tools/bench/setup installs what cbtfs is measured against.
bench: setup
	@tools/bench/setup
	@.venv/bin/python -m tools.bench $(if $(QUICK),--quick)

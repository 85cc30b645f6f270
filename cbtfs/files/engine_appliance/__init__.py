"""The engine `appliance`: the kernel of a small VM of libguestfs reads the file systems."""

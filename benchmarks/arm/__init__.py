"""What the CPU kernels are on 64-bit Arm, found on another machine: code compiled for it, run by an emulator."""

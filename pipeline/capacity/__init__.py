"""What a run will take: hours of GPUs, cores, storage and money, from measured rates."""

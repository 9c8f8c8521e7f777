package android.os;

/** What bench_device/android uses of this class, with names newer than API 23; nothing of it is run. */
public class PowerManager {
    public boolean isPowerSaveMode() { throw new UnsupportedOperationException(); }

    public boolean isInteractive() { throw new UnsupportedOperationException(); }

    public int getCurrentThermalStatus() { throw new UnsupportedOperationException(); }
}

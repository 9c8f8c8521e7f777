package android.os;

/** What bench_device/android uses of this class, with names newer than API 23; nothing of it is run. */
public class Build {
    public static String MANUFACTURER, MODEL, FINGERPRINT, SOC_MANUFACTURER, SOC_MODEL;
    public static String[] SUPPORTED_ABIS;

    public static class VERSION {
        public static String RELEASE;
        public static int SDK_INT;
    }

    public static class VERSION_CODES {
        public static final int Q = 29, S = 31;
    }
}

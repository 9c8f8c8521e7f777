package android.graphics;

/** As much of Android's class as the kit uses, with pixels in an array. */
public final class Bitmap {
    public enum Config { ARGB_8888, RGB_565 }

    private final int[] pixels;
    private final int width;
    private final Config config;

    private Bitmap(int[] pixels, int width, Config config) {
        this.pixels = pixels;
        this.width = width;
        this.config = config;
    }

    public static Bitmap createBitmap(int[] pixels, int width, int height, Config config) {
        if (pixels.length < width * height) throw new ArrayIndexOutOfBoundsException();
        return new Bitmap(java.util.Arrays.copyOf(pixels, width * height), width, config);
    }

    public int getWidth() { return width; }

    public int getHeight() { return pixels.length / width; }

    public Config getConfig() { return config; }

    public Bitmap copy(Config config, boolean mutable) { return new Bitmap(pixels.clone(), width, config); }

    /** Bitmaps that are not ARGB_8888 behave like those in graphics memory, which refuse. */
    public void getPixels(int[] to, int offset, int stride, int x, int y, int columns, int rows) {
        if (config != Config.ARGB_8888) throw new IllegalStateException("unable to getPixels()");
        for (int row = 0; row < rows; row++) {
            System.arraycopy(pixels, (y + row) * width + x, to, offset + row * stride, columns);
        }
    }
}
